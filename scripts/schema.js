/**
 * npm run schema [-- --check]: assembles what psql and the library run from schema/, which has one file per
 * concept. Writes migrations/, a copy of it for tests, and the grants that docs/roles.md shows. With --check it
 * writes nothing, and exits with 1 if a file differs.
 *
 * A file of schema/ is plain SQL. It begins with what makes its concept; lines such as these begin other sections:
 *
 *   -- ==== down              takes it back; goes into .down.sql, the last file first
 *   -- ==== grants: reader    goes into grants/reader.sql; the same for member and operator
 *   -- ==== shared: NAME      no section of any file: wherever :NAME stands, in any file, this text is put
 *
 * Each file begins with the shared text own_names, and ends with own_names_end.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** In the order in which PostgreSQL needs them: a view or an SQL function needs what it names. */
export const CONCEPTS = [
  'schema',
  'order',
  'members',
  'announcing',
  'registering',
  'data',
  'leaving',
  'evicting',
  'heartbeats',
  'crashes',
  'sweeping',
  'retention',
  'fence',
  'audit',
  'claims',
  'nonces',
  'upkeep',
  'access',
]

const ROOT = new URL('../', import.meta.url)
const DIRECTORIES = ['migrations/', 'test/fixtures/released/']
const MIGRATION = '0001_membership'
const SECTION = /^(up|down|grants: (member|operator|reader)|shared: [a-z_]+)$/
const ASSEMBLED = '-- Assembled from schema/ by `npm run schema`: change it there, not here.'
const TAKES_BACK = `-- Takes back all that ${MIGRATION}.up.sql made, except the schema itself.`

/** @param {string} path */
const read = (path) => readFileSync(new URL(path, ROOT), 'utf8')

/**
 * The files that schema/ gives: path to text.
 *
 * @returns {Map<string, string>}
 */
export function assembled() {
  const files = CONCEPTS.map((name) => ({ name, sections: sectionsOf(name) }))
  const shared = new Map(files.flatMap(({ sections }) => [...sections]))
  /** @param {string} text */
  const expanded = (text) =>
    text.replace(/(?<![:\w]):([a-z_]+)/g, (found, name) => shared.get(`shared: ${name}`) ?? found)
  /** @param {string} section */
  const parts = (section) =>
    files.flatMap(({ name, sections }) => {
      const text = sections.get(section)
      return text === undefined ? [] : [{ name, text: expanded(text) }]
    })
  /** @param {string[]} texts */
  const file = (...texts) =>
    `${[ASSEMBLED, expanded(':own_names'), ...texts, expanded(':own_names_end')].join('\n\n')}\n`
  /** @param {string} section */
  const grants = (section) => file(...parts(section).map(({ text }) => text))

  const up = parts('up').map(({ name, text }) => `${`-- ${name} `.padEnd(100, '-')}\n\n${text}`)
  const down = parts('down').map(({ text }) => text)
  const [reader = '', member = '', operator = ''] = ['reader', 'member', 'operator'].map((kind) =>
    grants(`grants: ${kind}`),
  )
  /** @type {[string, string][]} */
  const sql = [
    [`${MIGRATION}.up.sql`, file(...up)],
    [`${MIGRATION}.down.sql`, file(TAKES_BACK, down.reverse().join('\n'))],
    ['grants/reader.sql', reader],
    ['grants/member.sql', member],
    ['grants/operator.sql', operator],
  ]
  // From the first release on the copy stays as it is: docs/schema-evolution.md.
  return new Map([
    ...DIRECTORIES.flatMap((directory) =>
      sql.map(([path, text]) => /** @type {const} */ ([directory + path, text])),
    ),
    ['docs/roles.md', rolesPage(`${reader}\n${member}`)],
  ])
}

/**
 * @param {string} concept
 * @returns {Map<string, string>}
 */
function sectionsOf(concept) {
  const path = `schema/${concept}.sql`
  /** @type {Map<string, string>} */
  const sections = new Map()
  for (const section of `-- ==== up\n${read(path)}`.split(/^-- ==== /m).slice(1)) {
    const [name = ''] = section.split('\n', 1)
    if (!SECTION.test(name) || sections.has(name)) throw new Error(`${path} has a strange section: ${name}`)
    sections.set(name, section.slice(name.length).trim())
  }
  return sections
}

/**
 * With the grants that `npx pg-membership sql --grants member=app` prints.
 *
 * @param {string} grants
 */
function rolesPage(grants) {
  const names = grants.replaceAll(':"schema"', '"pgmembership"').replaceAll(':"role"', '"app"')
  const shown = /(--grants member=app\n-->\n\n```sql\n).*?(\n```\n)/s
  return read('docs/roles.md').replace(shown, (_, before, after) => `${before}${names.trimEnd()}${after}`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const isCheck = process.argv[2] === '--check'
  for (const [path, text] of assembled()) {
    if (read(path) === text) continue
    console.log(isCheck ? `differs from schema/: ${path}` : path)
    if (isCheck) process.exitCode = 1
    else writeFileSync(new URL(path, ROOT), text)
  }
}
