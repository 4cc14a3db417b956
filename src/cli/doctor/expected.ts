/** What the migrations make, read from their own text: so it holds on every version of PostgreSQL. */
import { migrationFiles, migrationText } from '../../postgres/schema/files.js'
import { checkWords, viewWords } from './sql-words.js'

/** By the kind and the name of an object: how it may be. A function may have several versions. */
export type Expected = ReadonlyMap<string, ReadonlySet<string>>

export function expected(): Expected {
  // Of comments, only those in the bodies of functions are stored.
  const text = migrationFiles()
    .map((file) => migrationText(file, 'up', 'x'))
    .join('\n')
  const objects = new Map<string, Set<string>>()
  const add = (object: string, version = ''): void => {
    objects.set(object, (objects.get(object) ?? new Set()).add(version))
  }
  addFunctions(text, add)
  for (const [, name = '', body = ''] of text.matchAll(/^create view "x"\.(\w+) as\n(.*?);$/gms))
    add(`view ${name}`, viewWords(body))
  for (const [, kind = '', name = ''] of text.matchAll(
    /^create (?:unique |constraint )?(index|trigger) (\w+)/gm,
  ))
    add(`${kind} ${name}`)
  for (const [, name = '', type = '', check = ''] of text.matchAll(
    /^create domain "x"\.(\w+) as (\w+)(?: collate "C")? check \((.*?)\);$/gms,
  ))
    add(`domain ${name}`, domain(type, check))
  for (const [, name = '', body = ''] of text.matchAll(
    /^create (?:unlogged )?table "x"\.(\w+) \(\n(.*?)^\)/gms,
  )) {
    add(`table ${name}`)
    for (const line of body.split('\n')) addColumn(name, line.trim().replace(/,$/, ''), add)
  }
  for (const [, name = '', key = '', columns = ''] of text.matchAll(
    /^alter table "x"\.(\w+) add (primary key|unique) \((.*?)\)/gm,
  ))
    add(`${key} (${columns}) of ${name}`)
  return objects
}

type Add = (object: string, version?: string) => void

function addFunctions(text: string, add: Add): void {
  for (const chunk of text.split(/^create (?:or replace )?function "x"\./m).slice(1)) {
    const [, name = '', head = '', body] = /^(\w+)(\(.*?)(?:as \$\$(.*?)\$\$|^return )/ms.exec(chunk) ?? []
    add(`function ${name}`, source(/\bsecurity definer\b/.test(head), body))
    const settings = [...head.matchAll(/^(?:language \w+ )?set (\w+) = (.*?)(?: *--.*)?$/gm)].map(
      ([, setting = '', value = '']) => `${setting}=${value}`,
    )
    add(`the setting of function ${name}`, settingsOf(settings))
  }
}

/** Columns, and the constraints that stand beside them. */
function addColumn(table: string, line: string, add: Add): void {
  if (line.startsWith('--')) return
  const [, key = '', columns = ''] = /^(primary key|unique|foreign key) \((.*?)\)/.exec(line) ?? []
  if (key !== '') {
    add(`${key} (${columns}) of ${table}`, key === 'foreign key' ? viewWords(line) : '')
    return
  }
  const [, name = '', type = '', rest = ''] = /^(\w+) +("x"\.\w+|\w+)(.*)$/.exec(line) ?? []
  if (name === '') return
  add(`column ${table}.${name}`, TYPES[type] ?? type.replaceAll('"', ''))
  if (rest.includes('primary key')) add(`primary key (${name}) of ${table}`)
  const [, check] = /\bcheck \((.*)\)$/.exec(rest) ?? []
  if (check !== undefined) add(`check of ${table}`, checkWords(check))
}

/** Short names of PostgreSQL's types. */
const TYPES: Readonly<Record<string, string>> = { timestamptz: 'timestamp with time zone' }

/** A function without a body in dollars is stored as a parsed tree: its text is not compared. */
export function source(definer: boolean, body: string | undefined): string {
  return `${String(definer)} ${body ?? ''}`
}

/** Each as `name=value`. The schema is called x. */
export function settingsOf(settings: readonly string[]): string {
  return settings
    .map((setting) => setting.replaceAll(/["']/g, '').replace(/^\w+/, (name) => name.toLowerCase()))
    .sort()
    .join('\n')
}

export function domain(type: string, check: string): string {
  return `${type} ${checkWords(check)}`
}
