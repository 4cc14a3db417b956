/** The documentation as a whole: its links, its size, and the part that a program writes. What its snippets do is checked by readme.test.ts. */
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { DOCUMENTS, isGenerated, leadsSomewhere, linksOf, ROOT, textOf } from './support/documents.js'

const TYPEDOC = join(ROOT, 'node_modules/typedoc/bin/typedoc')

test('links and anchors inside the repository lead somewhere', () => {
  const links = DOCUMENTS.flatMap((document) =>
    linksOf(textOf(document)).map((target) => ({ document, target })),
  )
  expect(links.length).toBeGreaterThan(100)
  expect(links.filter(({ document, target }) => !leadsSomewhere(document, target))).toEqual([])
})

test('docs/api is what `npm run docs` writes: every public name has a doc comment', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'pg-membership-docs-'))
  try {
    await promisify(execFile)(process.execPath, [TYPEDOC, '--out', directory], { cwd: ROOT }).catch(
      (error: unknown) => {
        const { stdout, stderr } = error as { stdout?: string; stderr?: string }
        throw new Error(`npm run docs fails:\n${stdout ?? ''}${stderr ?? ''}`, { cause: error })
      },
    )
    const written = readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((file) =>
      file.endsWith('.md'),
    )
    const committed = DOCUMENTS.filter(isGenerated).map((file) => file.slice('docs/api/'.length))
    expect(committed.sort(), 'Run npm run docs, and commit what it writes').toEqual(written.sort())
    for (const file of written) {
      expect(textOf(`docs/api/${file}`), 'Run npm run docs, and commit what it writes').toBe(
        readFileSync(join(directory, file), 'utf8'),
      )
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}, 120_000)
