/** The documentation as a whole: its links and its size. What its snippets do is checked by package/snippets.test.ts, docs/api by `npm run docs:check`. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { DOCUMENTS, leadsSomewhere, linksOf, ROOT, textOf } from './support/documents.js'

test('links and anchors inside the repository lead somewhere', () => {
  const links = DOCUMENTS.flatMap((document) =>
    linksOf(textOf(document)).map((target) => ({ document, target })),
  )
  expect(links.length).toBeGreaterThan(100)
  expect(links.filter(({ document, target }) => !leadsSomewhere(document, target))).toEqual([])
})

test('README has at most 150 lines', () => {
  expect(textOf('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(150)
})

test('every guide and every decision is in the list of its folder', () => {
  for (const [folder, list] of [
    ['docs/guides', 'README.md'],
    ['docs/decisions', 'docs/decisions/README.md'],
  ] as const) {
    const targets = linksOf(textOf(list))
    const pages = readdirSync(join(ROOT, folder)).filter((file) => file !== 'README.md')
    expect(pages.length).toBeGreaterThan(0)
    expect(pages.filter((file) => !targets.some((target) => target.endsWith(file)))).toEqual([])
  }
})

test('a decision has at most 40 lines, and the same four parts as the others', () => {
  const records = DOCUMENTS.filter((file) => /^docs\/decisions\/\d/.test(file))
  expect(records.length).toBeGreaterThan(0)
  for (const record of records) {
    const text = textOf(record)
    expect(text.trimEnd().split('\n').length, record).toBeLessThanOrEqual(40)
    expect(
      [...text.matchAll(/^## (.+)$/gm)].map(([, heading]) => heading),
      record,
    ).toEqual(['Context', 'Tried and measured', 'Decision', 'Consequence'])
  }
})

test('every npm script that a page or a workflow names is there', () => {
  const { scripts } = JSON.parse(textOf('package.json')) as { scripts: Record<string, string> }
  const workflows = readdirSync(join(ROOT, '.github/workflows')).map((file) => `.github/workflows/${file}`)
  const named = [...DOCUMENTS, ...workflows, '.ci/run'].flatMap((file) =>
    [...textOf(file).matchAll(/npm run (?:--silent )?([a-z:]+)/g)].map(([, name = '']) => name),
  )
  expect(named.length).toBeGreaterThan(10)
  expect([...new Set(named)].filter((name) => !(name in scripts))).toEqual([])
})
