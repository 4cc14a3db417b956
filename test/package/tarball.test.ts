import { execFile } from 'node:child_process'
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
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { untar } from '../support/untar.js'

const ROOT = join(import.meta.dirname, '../..')
const TSC = join(ROOT, 'node_modules/typescript/bin/tsc')
const ATTW = join(ROOT, 'node_modules/@arethetypeswrong/cli/dist/index.js')
const ESBUILD = join(ROOT, 'node_modules/esbuild/bin/esbuild')
const DEPENDENCIES = ['pg', 'pg-connection-string', 'pg-listen', 'kysely', 'uuid']

/** Outside the repository, so that nothing of its node_modules is found by walking up. */
const directory = mkdtempSync(join(tmpdir(), 'pg-membership-package-'))
const unpacked = join(directory, 'package')
let tarball: string
let files: string[]

beforeAll(async () => {
  // Without scripts: `npm test` has built dist/, and a build would pull it away under the other tests.
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', directory], ROOT)
  const [name = ''] = readdirSync(directory).filter((file) => file.endsWith('.tgz'))
  tarball = join(directory, name)
  files = untar(tarball, unpacked)
})

afterAll(() => {
  rmSync(directory, { recursive: true, force: true })
})

describe('the tarball', () => {
  test('has dist/, migrations/, docs/, examples/, README, LICENSE, CHANGELOG, and nothing else', () => {
    const expected =
      /^(dist\/.+\.(d\.ts|js|js\.map)|dist\/web\/page\/.+|migrations\/.+\.sql|docs\/.+\.(md|svg|png|json|yaml)|examples\/.+\.(md|ts)|(README|CHANGELOG)\.md|LICENSE|package\.json)$/
    expect(files.filter((file) => !expected.test(file))).toEqual([])
    const top = new Set(files.map((file) => file.replace(/\/.*/, '')))
    expect([...top].sort()).toEqual(
      [
        'CHANGELOG.md',
        'LICENSE',
        'README.md',
        'dist',
        'docs',
        'examples',
        'migrations',
        'package.json',
      ].sort(),
    )
  })

  test('has what its documents link to', () => {
    const links = files
      .filter((file) => file.endsWith('.md'))
      .flatMap((file) => {
        const text = readFileSync(join(unpacked, file), 'utf8')
        const targets = [...text.matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map(([, target = '']) => target)
        return targets.map((target) => ({ file, target, path: join(dirname(file), target) }))
      })
    expect(links.length).toBeGreaterThan(10)
    expect(links.filter(({ path }) => !files.includes(path))).toEqual([])
  })

  test('says where it comes from: npm makes links of README by that', () => {
    const manifest = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8')) as {
      repository?: { url?: string }
      homepage?: string
      bugs?: string
    }
    const [, home] = /^git\+(https:\/\/.+)\.git$/.exec(manifest.repository?.url ?? '') ?? []
    expect(home).toBeDefined()
    expect(manifest.homepage).toBe(`${home ?? ''}#readme`)
    expect(manifest.bugs).toBe(`${home ?? ''}/issues`)
  })

  test('has source maps that carry their sources', () => {
    const map = JSON.parse(readFileSync(join(unpacked, 'dist/index.js.map'), 'utf8')) as {
      sourcesContent?: string[]
    }
    expect(map.sourcesContent?.[0]).toBe(readFileSync(join(ROOT, 'src/index.ts'), 'utf8'))
  })

  test('passes publint', async () => {
    const { messages, pkg } = await publint({ pkgDir: unpacked, pack: false, strict: true })
    expect(messages.map((message) => formatMessage(message, pkg))).toEqual([])
  })

  test('passes attw', async () => {
    // The package is ESM only: require() takes it on every Node of `engines`, which the ignored rule denies.
    const rules = ['--profile', 'node16', '--ignore-rules', 'cjs-resolves-to-esm']
    await run(process.execPath, [ATTW, tarball, ...rules, '--no-definitely-typed'], directory)
  })
})

describe('a consumer', () => {
  const program = `
    import { MembershipLostError, PostgresCluster, migrate, migrationSql } from 'pg-membership'
    import type { Cluster, Lease, Member } from 'pg-membership'
    import { MemoryCluster, MemoryWorld } from 'pg-membership/memory'
    import { Claims } from 'pg-membership/claims'
    import { EmptyError, type Nonce, NoncePool } from 'pg-membership/nonces'
    import { observe } from 'pg-membership/otel'
    import { Ring } from 'pg-membership/ring'
    import { Router } from 'pg-membership/routing'
    import { json, type StandardSchemaV1, typed } from 'pg-membership/typed'

    export async function main(connection: string): Promise<Member | undefined> {
      const applied: string[] = await migrate({ connection })
      const cluster: Cluster = new PostgresCluster({ connection, name: migrationSql() + applied.join() })
      const membership = cluster.createMembership({ data: 'x' })
      const lease: Lease = await membership.register()
      if (lease.signal.reason instanceof MembershipLostError) throw lease.signal.reason
      for await (const members of cluster.watchMembers({ signal: lease.signal })) return members[0]
      await using memory = new MemoryCluster({ name: 'm', world: new MemoryWorld() })
      observe(memory)()
      const claims = new Claims({ cluster: memory, membership, space: 'x' })
      const pool = new NoncePool({ cluster, membership, name: 'x' })
      const nonce: Nonce | undefined = await pool.take().catch((error: unknown) => {
        if (error instanceof EmptyError && error.code === 'EMPTY') return undefined
        throw error
      })
      if (!claims.held.has('x')) await nonce?.release()
      const schema: StandardSchemaV1<unknown, { url: string }> = (await import('./schema.js')).schema
      const view = typed(memory, json(schema))
      const router = new Router(view, { key: ({ data }) => data.url })
      const url: string | undefined = router.owner('x')?.data.url ?? new Ring(memory.snapshot?.members ?? []).owner('x')?.data
      if (url === undefined) return undefined
      return memory.snapshot?.get(membership.id)
    }
  `
  const strict = { strict: true, skipLibCheck: false, noEmit: true, target: 'ES2022' }
  const node = { lib: ['ES2022', 'ESNext.Disposable'], types: ['node'] }

  // Without @types/pg, and without the dependencies themselves: the types expose nothing of them.
  test.each([
    ['module NodeNext', { ...strict, ...node, module: 'NodeNext' }],
    ['moduleResolution Bundler', { ...strict, ...node, module: 'ESNext', moduleResolution: 'Bundler' }],
  ])('compiles with strict and skipLibCheck: false, under %s', async (name, compilerOptions) => {
    const project = consumer(`types-${name.replace(/\W+/g, '-')}`, [
      '@types/node',
      '@opentelemetry/api',
      'zod',
    ])
    writeFileSync(join(project, 'main.ts'), program)
    writeFileSync(
      join(project, 'schema.ts'),
      "import { z } from 'zod'\nexport const schema = z.object({ url: z.string() })",
    )
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['main.ts'] }))
    await run(process.execPath, [TSC, '-p', project], project)
  })

  test.each([
    ['nodenext', {}, []],
    ['node20', {}, []],
    ['node16', {}, ['TS1479', 'TS1541']],
    ['node18', {}, ['TS1479', 'TS1541']],
    ['commonjs', { moduleResolution: 'bundler' }, []],
    ['commonjs', { moduleResolution: 'node10', ignoreDeprecations: '6.0' }, ['TS2307', 'TS2307']],
  ])(
    'in a CommonJS file, under module %s %j, compiles or fails as the guide says',
    async (module, more, codes) => {
      const project = consumer(`cjs-${module}-${String(codes.length)}`, ['@types/node'])
      writeFileSync(
        join(project, 'main.cts'),
        `import { PostgresCluster } from 'pg-membership'
       import type { Cluster } from 'pg-membership'
       export const cluster: Cluster = new PostgresCluster({ connection: 'postgres://x', name: 'x' })`,
      )
      const others = `import type { Cluster } from 'pg-membership' with { 'resolution-mode': 'import' }
       export const later: Promise<Cluster> = import('pg-membership').then(
         ({ PostgresCluster }) => new PostgresCluster({ connection: 'postgres://x', name: 'x' }))`
      const files = ['main.cts', ...(module.startsWith('node') ? ['later.cts'] : [])]
      if (files.length > 1) writeFileSync(join(project, 'later.cts'), others)
      // How the package is found is the question here, not whether its types hold: that is asked above.
      const compilerOptions = { ...strict, ...node, skipLibCheck: true, module, ...more }
      writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }))
      const printed = await run(process.execPath, [TSC, '-p', project], project).then(
        ({ stdout }) => stdout,
        (error: unknown) => (error as Error).message,
      )
      expect(
        [...printed.matchAll(/^main\.cts.*error (TS\d+)/gm)].map(([, code]) => code),
        printed,
      ).toEqual(codes)
      expect(printed).not.toMatch(/later\.cts.*error/)
    },
  )

  test.each([
    ['require()', 'main.cjs', `const all = [require('pg-membership'), require('pg-membership/memory')]`],
    [
      'import',
      'main.mjs',
      `const all = [await import('pg-membership'), await import('pg-membership/memory')]`,
    ],
  ])('loads both entry points by %s, in silence', async (name, file, load) => {
    const project = consumer(`runs-${file}`, DEPENDENCIES)
    writeFileSync(
      join(project, file),
      `${load}
       const [{ PostgresCluster }, { MemoryCluster }] = all
       process.stdout.write([PostgresCluster, MemoryCluster].map(({ name }) => name).join())`,
    )
    expect(await run(process.execPath, [file], project)).toEqual({
      stdout: 'PostgresCluster,MemoryCluster',
      stderr: '',
    })
  })

  test('bundles with esbuild as the guide says, and finds the migrations', async () => {
    const [, flags = ''] =
      /`--platform=node( --external[^`]*)`/.exec(
        readFileSync(join(ROOT, 'docs/guides/bundling-and-commonjs.md'), 'utf8'),
      ) ?? []
    expect(flags).toContain('pg-membership')
    const project = consumer('bundles', DEPENDENCIES)
    const source = `import { migrationSql, PostgresCluster } from 'pg-membership'
      import pg from 'pg'
      process.stdout.write([migrationSql().length > 1000, PostgresCluster.name, pg.Pool.name].join())`
    writeFileSync(join(project, 'app.js'), source)
    for (const format of ['esm', 'cjs']) {
      const out = format === 'esm' ? 'app.mjs' : 'app.cjs'
      const args = [
        'app.js',
        '--bundle',
        `--format=${format}`,
        `--outfile=${out}`,
        '--platform=node',
        '--log-level=error',
      ]
      await run(ESBUILD, [...args, ...flags.trim().split(' ')], project)
      expect((await run(process.execPath, [out], project)).stdout).toBe('true,PostgresCluster,BoundPool')
    }
  })

  test('finds the command', async () => {
    const project = consumer('runs-command', DEPENDENCIES)
    const { bin } = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8')) as {
      bin: Record<string, string>
    }
    const command = join(project, 'node_modules/pg-membership', bin['pg-membership'] ?? '')
    expect(readFileSync(command, 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/)
    expect((await run(process.execPath, [command, '--help'], project)).stdout).toContain('migrate')
  })
})

/** A project with the package installed, and links to what else it may find. */
function consumer(name: string, dependencies: readonly string[]): string {
  const project = join(directory, name)
  untar(tarball, join(project, 'node_modules/pg-membership'))
  for (const dependency of dependencies) {
    const link = join(project, 'node_modules', dependency)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules', dependency), link)
  }
  writeFileSync(join(project, 'package.json'), '{ "type": "module" }')
  return project
}

/** Rejects with what the program printed when it fails. The cache of npm may not be writable here. */
async function run(file: string, args: string[], cwd: string): Promise<{ stdout: string; stderr: string }> {
  const env = {
    ...process.env,
    npm_config_cache: join(directory, 'npm'),
    npm_config_update_notifier: 'false',
  }
  try {
    return await promisify(execFile)(file, args, { cwd, env })
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string }
    throw new Error(`${file} ${args.join(' ')}\n${stdout ?? ''}${stderr ?? ''}`, { cause: error })
  }
}
