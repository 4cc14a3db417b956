import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { posix } from 'node:path'
import ts from 'typescript'
import { expect, test } from 'vitest'

const ENTRIES = ['index.ts', 'memory/index.ts', 'cli/main.ts']
const DRIVERS = ['pg', 'pg-listen', 'kysely']

const source = new URL('../src/', import.meta.url)
const manifest = JSON.parse(readFileSync(new URL('../package.json', source), 'utf8')) as {
  dependencies: Record<string, string>
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

test('imports point one way: no file reaches itself', () => {
  const cycles = files.flatMap((file) => (imports.get(file) ?? []).map((next) => wayFrom(next, file)))
  expect(cycles.filter((way) => way !== undefined)).toEqual([])
})

test('every file is reachable from what the package exposes', () => {
  expect(files.filter((file) => !ENTRIES.some((entry) => wayFrom(entry, file)))).toEqual([])
})

test('every imported file exists, and every imported package is a declared dependency', () => {
  const known = new Set([
    ...files,
    ...Object.keys(manifest.dependencies),
    ...builtinModules.map((m) => `node:${m}`),
  ])
  const unknown = [...imports.values()].flat().filter((name) => !known.has(name))
  expect(unknown).toEqual([])
})

test('only listener.ts knows pg-listen', () => {
  expect(importersOf('pg-listen')).toEqual(['postgres/connection/listener.ts'])
})

test('only the command line imports from cli/', () => {
  const intruders = files.filter((file) => {
    return !file.startsWith('cli/') && imports.get(file)?.some((name) => name.startsWith('cli/'))
  })
  expect(intruders).toEqual([])
})

test('pg-membership/memory needs no database driver', () => {
  const ways = DRIVERS.map((driver) => wayFrom('memory/index.ts', driver))
  expect(ways.filter((way) => way !== undefined)).toEqual([])
})
