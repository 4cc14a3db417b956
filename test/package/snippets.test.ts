/**
 * Every snippet of the documentation is compiled, against the built package, and run; those of docs/api, which
 * come from doc comments, are compiled only. In a comment right above a snippet, which readers do not see, a
 * line can say
 *
 *   uses: cluster, pool     what of snippet-app.ts it uses without showing it
 *   prints: text            what its standard output contains
 *   then: SIGTERM           which signal ends it, once it has printed that; otherwise it ends by itself
 *   after: code             what is run after it, to see that it does what the text says
 *   no-run: reason          why it is compiled only
 *   shows: command          the snippet is what this command prints, to the letter
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { migrate } from 'pg-membership'
import ts from 'typescript'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pgMembership } from '../support/command-line.js'
import { adminClient, databaseUrl, uniqueName } from '../support/database.js'
import { DOCUMENTS, isGenerated, ROOT, textOf } from '../support/documents.js'

const TIME_LIMIT_MS = 20_000
/** Said by a snippet that waits for a signal and has nothing of its own to say. */
const STARTED = 'started'

/** Those of the documentation; rolled back with everything else. */
const ROLES = `
  do $$ declare name text; begin
    foreach name in array '{app_owner, app, auditor}'::text[] loop
      if to_regrole(name) is null then execute format('create role %I', name); end if;
    end loop;
  end $$`

/** A member in the documentation; rolled back, too. */
const MEMBER = '0198c0de-0000-7000-8000-000000000004'

interface Snippet {
  readonly document: string
  /** Of its first line, from 1. */
  readonly line: number
  readonly language: string
  readonly code: string
  readonly uses: string | undefined
  readonly prints: string | undefined
  readonly then: NodeJS.Signals | undefined
  readonly after: string | undefined
  readonly noRun: string | undefined
  readonly shows: string | undefined
}

const snippets = DOCUMENTS.flatMap((document) => snippetsOf(document, textOf(document)))

/** A project that has the package installed. */
const project = mkdtempSync(join(tmpdir(), 'pg-membership-snippets-'))
const database = uniqueName('readme').replaceAll('-', '_')
const url = ((): string => {
  const it = new URL(databaseUrl())
  it.pathname = `/${database}`
  return it.href
})()

beforeAll(async () => {
  await using admin = await adminClient()
  await admin.query(`create database ${database}`)
  await migrate({ connection: url })
})

afterAll(async () => {
  rmSync(project, { recursive: true, force: true })
  await using admin = await adminClient()
  await admin.query(`drop database if exists ${database} with (force)`)
})

test('the documentation has snippets, and says of each what it is', () => {
  expect(snippets.filter(({ language }) => language === 'ts').length).toBeGreaterThan(5)
  const known = new Set(['ts', 'js', 'sql', 'sh', 'text', 'json', 'mermaid'])
  expect(snippets.filter(({ language }) => !known.has(language)).map(placeOf)).toEqual([])
})

test('docs/architecture.md names every file of the engine and of the store in PostgreSQL', () => {
  const text = textOf('docs/architecture.md')
  const files = ['engine', 'postgres'].flatMap((folder) =>
    readdirSync(join(ROOT, 'src', folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => basename(file)),
  )
  expect(files.filter((file) => !text.includes(file))).toEqual([])
})

describe('TypeScript', () => {
  const programs = snippets.filter(({ language }) => language === 'ts')

  beforeAll(() => {
    const names = ['pg', 'kysely', 'zod', '@opentelemetry/api', 'node-cron', '@types/node', '@types/pg']
    for (const name of ['.', ...names]) {
      const link = join(project, 'node_modules', name === '.' ? 'pg-membership' : name)
      mkdirSync(dirname(link), { recursive: true })
      symlinkSync(name === '.' ? ROOT : join(ROOT, 'node_modules', name), link)
    }
    writeFileSync(join(project, 'package.json'), '{ "type": "module" }')
    writeFileSync(join(project, 'app.ts'), readFileSync(join(ROOT, 'test/support/snippet-app.ts')))
    for (const snippet of programs) writeFileSync(join(project, `${fileOf(snippet)}.ts`), programOf(snippet))
  })

  test('compiles: every snippet, in strict mode, against the built package', () => {
    const program = ts.createProgram(
      programs.map((snippet) => join(project, `${fileOf(snippet)}.ts`)),
      {
        strict: true,
        noUncheckedIndexedAccess: true,
        module: ts.ModuleKind.NodeNext,
        target: ts.ScriptTarget.ES2022,
        lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
        types: ['node'],
        typeRoots: [join(project, 'node_modules/@types')],
        inlineSourceMap: true,
        outDir: join(project, 'out'),
        rootDir: project,
      },
    )
    const { diagnostics } = program.emit()
    const complaints = [...ts.getPreEmitDiagnostics(program), ...diagnostics].map(
      ({ file, start, messageText }) => {
        const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line + 1 : 0
        return `${file?.fileName ?? ''}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`
      },
    )
    expect(complaints).toEqual([])
  }, 120_000)

  test.each(
    programs.filter(({ noRun }) => noRun === undefined).map((snippet) => [placeOf(snippet), snippet]),
  )(
    'runs: %s',
    async (_, snippet) => {
      const program = join(project, 'out', `${fileOf(snippet)}.js`)
      await run(process.execPath, ['--enable-source-maps', program], snippet)
    },
    TIME_LIMIT_MS + 5_000,
  )
})

describe('SQL', () => {
  const scripts = snippets.filter(({ language, noRun }) => language === 'sql' && noRun === undefined)

  test.each(scripts.map((snippet) => [placeOf(snippet), snippet]))('runs: %s', async (_, { code }) => {
    await using client = await adminClient(url)
    await client.query('begin')
    await client.query(ROLES)
    // Whom the documentation names.
    await client.query(`insert into pgmembership.members (id, cluster) values ('${MEMBER}', 'chat')`)
    // As docs/audit.md says.
    await client.query('set local search_path = public, pgmembership')
    // What has parameters is only planned: it parses, and all that it names is there.
    await client.query(/\$\d/.test(code) ? `prepare question as ${code}` : code)
    await client.query('rollback')
  })
})

describe('the command line', () => {
  const COMMAND = 'npx pg-membership'
  const lines = snippets
    .filter(({ language, noRun }) => language === 'sh' && noRun === undefined)
    .flatMap((snippet) => {
      const commands = snippet.code.replaceAll('\\\n', ' ').split('\n')
      // psql is nothing that npm brings: what it would be given is printed. So is what goes into a file.
      const lines = commands.map((line) => line.replace(/ (\| psql|>) .*/, ''))
      return lines.filter((line) => line.startsWith(COMMAND)).map((line) => [line, snippet] as const)
    })

  test.each(lines)('runs: %s', async (line, snippet) => {
    const program = `"${process.execPath}" "${join(ROOT, 'dist/cli/main.js')}"`
    await run('sh', ['-c', line.replaceAll(COMMAND, () => program)], snippet)
  })
})

describe('what a command prints', () => {
  const shown = snippets.flatMap((snippet) =>
    snippet.shows === undefined ? [] : ([[snippet.shows, snippet]] as const),
  )

  test('is marked as such wherever the text says so', () => {
    const said = DOCUMENTS.map((document) => textOf(document)).join('\n')
    expect(shown.map(([command]) => command)).toEqual(
      [...said.matchAll(/^`(npx pg-membership .+)` prints:$/gm)].map(([, command]) => command),
    )
    expect(shown.length).toBeGreaterThan(0)
  })

  // Where it fails, what is received is what belongs there.
  test.each(shown)('is what the document shows: %s', async (command, { code }) => {
    const [, , ...args] = command.split(' ')
    const { stdout } = await pgMembership(args, { DATABASE_URL: undefined })
    expect(stdout.trimEnd()).toBe(code)
  })
})

/** Resolves when it ended as it should; rejects with what it printed otherwise. */
async function run(file: string, args: readonly string[], snippet: Snippet): Promise<void> {
  const { then, prints = then === undefined ? '' : STARTED } = snippet
  const child = spawn(file, args, {
    cwd: project,
    // Nothing of PG*; NODE_OPTIONS notes warnings.
    env: {
      PATH: process.env.PATH,
      NODE_OPTIONS: process.env.NODE_OPTIONS,
      DATABASE_URL: url,
      SNIPPET: fileOf(snippet),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: TIME_LIMIT_MS,
    killSignal: 'SIGKILL',
  })
  let stdout = ''
  let stderr = ''
  let signalled = false
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    if (then === undefined || signalled || !stdout.includes(prints)) return
    signalled = true
    child.kill(then)
  })
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  const said = `${placeOf(snippet)}\n${stdout}${stderr}`
  expect({ code, signal, stderr }, said).toEqual({ code: 0, signal: null, stderr: '' })
  expect(stdout, said).toContain(prints)
}

function snippetsOf(document: string, text: string): Snippet[] {
  const lines = text.split('\n')
  const found: Snippet[] = []
  for (let n = 0; n < lines.length; n++) {
    const [, indent = '', language] = /^(\s*)```(\w*)$/.exec(lines[n] ?? '') ?? []
    if (language === undefined) continue
    const end = lines.findIndex((line, at) => at > n && line.trim() === '```')
    const [, comment = ''] = /<!--((?:(?!-->)[^])*)-->\s*$/.exec(lines.slice(0, n).join('\n')) ?? []
    const say = (key: string): string | undefined =>
      new RegExp(`^\\s*${key}: (.+?)\\s*$`, 'm').exec(comment)?.[1]
    found.push({
      document,
      line: n + 2,
      language,
      code: lines
        .slice(n + 1, end)
        .map((line) => line.slice(indent.length))
        .join('\n'),
      uses: say('uses'),
      prints: say('prints'),
      then: say('then') as NodeJS.Signals | undefined,
      after: say('after'),
      noRun: isGenerated(document) ? 'from a doc comment' : say('no-run'),
      shows: say('shows'),
    })
    n = end
  }
  return found
}

/** With its code on the lines that it has in the document, so that complaints lead there. */
function programOf({ line, code, uses, then, after = '' }: Snippet): string {
  const header =
    uses === undefined
      ? ''
      : `import { ${uses} } from './app.js'; import { finish as finish_ } from './app.js'`
  const end = then === undefined ? '; await finish_()' : `; console.log('${STARTED}')`
  const footer = uses === undefined ? '' : end
  return `${header}${'\n'.repeat(line - 1)}${code}\n${after}${footer}\nexport {}\n`
}

function fileOf({ document, line }: Snippet): string {
  return `${document.replace(/\W+/g, '-')}-${line}`
}

function placeOf({ document, line }: Snippet): string {
  return `${document}:${line}`
}
