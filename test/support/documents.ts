/** The documentation: its pages, and the anchors of their headings. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export const ROOT = join(import.meta.dirname, '../..')

/** Written by `npm run docs`. */
const GENERATED = 'docs/api/'

/** Paths from the root, those of people first and then those that a program writes. */
export const DOCUMENTS = ['.', 'docs', 'examples']
  .flatMap((directory) =>
    readdirSync(join(ROOT, directory), { recursive: directory !== '.', encoding: 'utf8' })
      .filter((file) => file.endsWith('.md'))
      .map((file) => join(directory, file).replaceAll('\\', '/')),
  )
  .sort((a, b) => Number(isGenerated(a)) - Number(isGenerated(b)) || (a < b ? -1 : 1))

export function isGenerated(document: string): boolean {
  return document.startsWith(GENERATED)
}

export function textOf(document: string): string {
  return readFileSync(join(ROOT, document), 'utf8')
}

/** Where links go that lead to something of the repository, as they are written. */
export function linksOf(text: string): string[] {
  return [...withoutCode(text).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)].map(([, target = '']) => target)
}

export function leadsSomewhere(document: string, target: string): boolean {
  const [path = '', fragment] = target.split('#')
  const file = path === '' ? document : join(dirname(document), path)
  try {
    if (path.endsWith('/')) return readdirSync(join(ROOT, file)).length > 0
    const text = textOf(file)
    return fragment === undefined || anchorsOf(text).has(fragment)
  } catch {
    return false
  }
}

/** As GitHub makes them: a heading that comes again gets a number. */
function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>()
  for (const [, heading = ''] of withoutCode(text).matchAll(/^#+ (.+)$/gm)) {
    const anchor = heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/ /g, '-')
    let n = 0
    while (anchors.has(n === 0 ? anchor : `${anchor}-${n}`)) n++
    anchors.add(n === 0 ? anchor : `${anchor}-${n}`)
  }
  return anchors
}

function withoutCode(text: string): string {
  return text.replace(/^(\s*)```[^]*?^\s*```$/gm, '')
}
