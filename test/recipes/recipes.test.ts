/** docs/guides/migrations.md: its recipes are run as they stand there, by the tools that they are for. */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { migrate } from 'pg-membership'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { catalogOf } from '../support/catalog.js'
import { MAIN } from '../support/command-line.js'
import { adminClient, databaseUrl, uniqueName } from '../support/database.js'
import { ROOT, textOf } from '../support/documents.js'

const SCHEMA = 'pgmembership'
const TOOLS = join(import.meta.dirname, 'tools/node_modules')
const page = textOf('docs/guides/migrations.md')

/** A project in which the package is installed, and a database of its own. */
class Project {
  readonly directory = mkdtempSync(join(tmpdir(), 'pg-membership-recipe-'))
  readonly database = uniqueName('recipe').replaceAll('-', '_')

  get url(): string {
    const url = new URL(databaseUrl())
    url.pathname = `/${this.database}`
    return url.href
  }

  async open(): Promise<void> {
    await using admin = await adminClient()
    await admin.query(`create database ${this.database}`)
    this.write('package.json', '{ "type": "module" }')
    mkdirSync(join(this.directory, 'node_modules'))
    for (const name of ['pg-membership', 'kysely', 'pg', 'knex', 'node-pg-migrate', 'drizzle-orm']) {
      const ours = ['kysely', 'pg'].includes(name) ? join(ROOT, 'node_modules', name) : join(TOOLS, name)
      symlinkSync(name === 'pg-membership' ? ROOT : ours, join(this.directory, 'node_modules', name))
    }
  }

  async close(): Promise<void> {
    rmSync(this.directory, { recursive: true, force: true })
    await using admin = await adminClient()
    await admin.query(`drop database if exists ${this.database} with (force)`)
  }

  write(file: string, text: string): void {
    const path = join(this.directory, file)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text)
  }

  read(file: string): string {
    return readFileSync(join(this.directory, file), 'utf8')
  }

  /** Rejects with what the program printed. */
  async run(program: string, args: readonly string[]): Promise<void> {
    const env = { ...process.env, DATABASE_URL: `${this.url}?sslmode=disable` }
    await promisify(execFile)(program, args, { cwd: this.directory, env }).catch((error: unknown) => {
      const { stdout, stderr } = error as { stdout?: string; stderr?: string }
      throw new Error(`${program} ${args.join(' ')}\n${stdout ?? ''}${stderr ?? ''}`, { cause: error })
    })
  }

  node(...args: string[]): Promise<void> {
    return this.run(process.execPath, args)
  }

  /** Writes the files of a recipe, and runs its commands. */
  async follow(heading: string): Promise<void> {
    const [, section = ''] = new RegExp(`^## ${heading}\\n(.*?)(?=^## )`, 'ms').exec(page) ?? []
    const blocks = [...section.matchAll(/^```(js|sh)\n(.*?)^```$/gms)]
    expect(blocks.length, heading).toBeGreaterThan(0)
    for (const [, language, code = ''] of blocks) {
      if (language === 'sh') {
        // npx pg-membership, without npm between them.
        const npx = `npx() { shift; '${process.execPath}' '${MAIN}' "$@"; }`
        await this.run('sh', ['-ec', `${npx}\n${code}`])
      } else {
        const [, file = ''] = /^\/\/ (\S+)\n/.exec(code) ?? []
        this.write(file, code)
      }
    }
  }

  async query(text: string): Promise<void> {
    await using client = await adminClient(this.url)
    await client.query(text)
  }

  async catalog(): Promise<string[]> {
    await using client = await adminClient(this.url)
    return await catalogOf(client, SCHEMA)
  }
}

async function openProject(): Promise<Project> {
  const project = new Project()
  onTestFinished(() => project.close())
  await project.open()
  return project
}

const model = new Project()
let whole: string[]
beforeAll(async () => {
  await model.open()
  await migrate({ connection: model.url })
  whole = await model.catalog()
})
afterAll(() => model.close())

async function expectWhole(project: Project): Promise<void> {
  expect(await migrate({ connection: project.url })).toEqual([])
  expect(await project.catalog()).toEqual(whole)
}

/** Up, down, and up again. */
async function expectUpAndDown(
  project: Project,
  up: () => Promise<void>,
  down: () => Promise<void>,
): Promise<void> {
  await up()
  await expectWhole(project)
  await down()
  expect((await project.catalog()).filter((line) => !line.startsWith('schema '))).toEqual([])
  await up()
  await expectWhole(project)
}

test('contract: the recipe for Kysely', async () => {
  const project = await openProject()
  await project.follow('Kysely')
  project.write(
    'migrate.js',
    `import * as fs from 'node:fs/promises'
     import * as path from 'node:path'
     import { FileMigrationProvider, Kysely, Migrator, PostgresDialect } from 'kysely'
     import pg from 'pg'
     const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL })
     const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
     const provider = new FileMigrationProvider({ fs, path, migrationFolder: path.resolve('migrations') })
     const migrator = new Migrator({ db, provider })
     const { error } = await migrator[process.argv[2]]()
     await db.destroy()
     if (error) throw error`,
  )
  await expectUpAndDown(
    project,
    () => project.node('migrate.js', 'migrateToLatest'),
    () => project.node('migrate.js', 'migrateDown'),
  )
}, 120_000)

test('contract: the recipe for node-pg-migrate', async () => {
  const project = await openProject()
  await project.follow('node-pg-migrate')
  const bin = join(TOOLS, '.bin/node-pg-migrate')
  await expectUpAndDown(
    project,
    () => project.node(bin, 'up'),
    () => project.node(bin, 'down'),
  )
}, 120_000)

test('contract: the recipe for Knex', async () => {
  const project = await openProject()
  await project.follow('Knex')
  project.write('knexfile.js', `export default { client: 'pg', connection: process.env.DATABASE_URL }`)
  const bin = join(TOOLS, '.bin/knex')
  await expectUpAndDown(
    project,
    () => project.node(bin, 'migrate:latest'),
    () => project.node(bin, 'migrate:rollback'),
  )
}, 120_000)

test('contract: the recipe for Drizzle', async () => {
  const project = await openProject()
  const entry = {
    idx: 0,
    version: '7',
    when: 1_767_225_600_000,
    tag: '0000_pg_membership',
    breakpoints: true,
  }
  const journal = { version: '7', dialect: 'postgresql', entries: [entry] }
  // As drizzle-kit generate --custom writes it.
  project.write('drizzle/meta/_journal.json', JSON.stringify(journal))
  await project.follow('Drizzle')
  project.write(
    'migrate.js',
    `import { drizzle } from 'drizzle-orm/node-postgres'
     import { migrate } from 'drizzle-orm/node-postgres/migrator'
     import pg from 'pg'
     const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL })
     await migrate(drizzle(pool), { migrationsFolder: 'drizzle' })
     await pool.end()`,
  )
  await project.node('migrate.js')
  await expectWhole(project)
  await project.node('migrate.js')
  await expectWhole(project)
}, 120_000)

test('contract: the recipe for Prisma makes a file that runs as one query', async () => {
  const project = await openProject()
  await project.follow('Prisma')
  await project.query(project.read('prisma/migrations/20260101000000_pg_membership/migration.sql'))
  await expectWhole(project)
}, 120_000)

test('contract: the recipe for dbmate', async () => {
  const project = await openProject()
  await project.follow('dbmate')
  const bin = join(TOOLS, '.bin/dbmate')
  await expectUpAndDown(
    project,
    () => project.run(bin, ['--no-dump-schema', 'up']),
    () => project.run(bin, ['--no-dump-schema', 'down']),
  )
}, 120_000)

test('contract: the recipe for files of SQL', async () => {
  const project = await openProject()
  await project.follow('Flyway, psql, and whatever runs SQL')
  await expectUpAndDown(
    project,
    () => project.query(project.read('V1__pg_membership.sql')),
    () => project.query(project.read('U1__pg_membership.sql')),
  )
}, 120_000)

test('contract: the page tells the versions that were tried', () => {
  const installed = JSON.parse(
    readFileSync(join(import.meta.dirname, 'tools/package-lock.json'), 'utf8'),
  ) as {
    packages: Record<string, { version?: string } | undefined>
  }
  const rows = [...page.matchAll(/^\| ([\w-]+) +\| (\d+\.\d+) /gm)]
  expect(rows.length).toBe(5)
  for (const [, tool = '', version = ''] of rows) {
    const name = tool === 'Drizzle' ? 'drizzle-orm' : tool.toLowerCase()
    const found = installed.packages[`node_modules/${name}`]?.version ?? kyselyVersion()
    expect(found.startsWith(`${version}.`), `${tool} ${found}`).toBe(true)
  }
})

function kyselyVersion(): string {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'node_modules/kysely/package.json'), 'utf8')) as {
    version: string
  }
  return version
}
