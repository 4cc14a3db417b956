import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { posix } from 'node:path'
import ts from 'typescript'
import { expect, test } from 'vitest'

const ENTRIES = [
  'index.ts',
  'memory/index.ts',
  'layers/claims.ts',
  'layers/leader.ts',
  'layers/nonces.ts',
  'layers/otel.ts',
  'layers/ring.ts',
  'layers/routing.ts',
  'layers/typed.ts',
  'cli/main.ts',
]
const DRIVERS = ['pg', 'pg-listen', 'kysely']

const source = new URL('../src/', import.meta.url)
const manifest = JSON.parse(readFileSync(new URL('../package.json', source), 'utf8')) as {
  dependencies: Record<string, string>
  peerDependencies: Record<string, string>
}
const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
)
const imports = new Map(files.map((file) => [file, importsOf(file)]))

/** What a file of src/ imports, types included: files of src/ by path, packages by name. */
function importsOf(file: string): string[] {
  const { importedFiles } = ts.preProcessFile(readFileSync(new URL(file, source), 'utf8'))
  return importedFiles.map(({ fileName }) =>
    fileName.startsWith('.') ? posix.join(posix.dirname(file), fileName).replace(/\.js$/, '.ts') : fileName,
  )
}

/** How a file comes to import a target, files and packages alike. */
function wayFrom(file: string, target: string, seen = new Set<string>()): string | undefined {
  if (file === target) return target
  if (seen.has(file)) return undefined
  seen.add(file)
  for (const imported of imports.get(file) ?? []) {
    const way = wayFrom(imported, target, seen)
    if (way) return `${file} -> ${way}`
  }
  return undefined
}

function importersOf(name: string): string[] {
  return files.filter((file) => imports.get(file)?.includes(name))
}

/** What each folder may import besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  api: [],
  kit: ['api'],
  engine: ['api', 'kit'],
  postgres: ['api', 'kit', 'engine'],
  memory: ['api', 'kit', 'engine'],
  layers: ['api', 'kit'],
  web: ['api', 'kit', 'postgres'],
  cli: ['api', 'kit', 'engine', 'postgres', 'web'],
  'index.ts': ['api', 'engine', 'postgres'],
}

function folderOf(file: string): string {
  return file.split('/')[0] ?? ''
}

test('each folder imports only from those below it', () => {
  const upward = files.flatMap((file) => {
    const folder = folderOf(file)
    const allowed = MAY_IMPORT[folder] ?? []
    return (imports.get(file) ?? [])
      .filter((imported) => imported.endsWith('.ts') && folderOf(imported) !== folder)
      .filter((imported) => !allowed.includes(folderOf(imported)))
      .map((imported) => `${file} -> ${imported}`)
  })
  expect(upward).toEqual([])
})

test('only postgres/, web/ and cli/ know a database driver', () => {
  const knowing = files.filter((file) => imports.get(file)?.some((name) => DRIVERS.includes(name)))
  expect(new Set(knowing.map(folderOf))).toEqual(new Set(['postgres', 'web', 'cli']))
})

test('the engine knows no SQLSTATE', () => {
  const engine = files.filter((file) => ['kit', 'engine'].includes(folderOf(file)))
  const texts = engine.map((file) => [file, readFileSync(new URL(file, source), 'utf8')] as const)
  const knowing = texts.filter(([, text]) => /sqlstate|'[0-9A-Z]{2}[0-9][0-9A-Z]{2}'/i.test(text))
  expect(knowing.map(([file]) => file)).toEqual([])
})

test('no file reaches itself', () => {
  const cycles = files.flatMap((file) => (imports.get(file) ?? []).map((next) => wayFrom(next, file)))
  expect(cycles.filter((way) => way !== undefined)).toEqual([])
})

test('every file is reachable from what the package exposes', () => {
  expect(files.filter((file) => !ENTRIES.some((entry) => wayFrom(entry, file)))).toEqual([])
})

test('every imported file exists, and every imported package is a declared dependency', () => {
  const known = new Set([
    ...files,
    ...Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }),
    ...builtinModules.map((m) => `node:${m}`),
  ])
  const unknown = [...imports.values()].flat().filter((name) => !known.has(name))
  expect(unknown).toEqual([])
})

test('only listener.ts knows pg-listen', () => {
  expect(importersOf('pg-listen')).toEqual(['postgres/connection/listener.ts'])
})

test('only a layer knows what users may leave out', () => {
  const optional = Object.keys(manifest.peerDependencies)
  expect(optional.flatMap(importersOf).filter((file) => folderOf(file) !== 'layers')).toEqual([])
})

test('pg-membership/memory needs no database driver', () => {
  const ways = DRIVERS.map((driver) => wayFrom('memory/index.ts', driver))
  expect(ways.filter((way) => way !== undefined)).toEqual([])
})
