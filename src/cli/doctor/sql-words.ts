/**
 * SQL in a form that is the same for what somebody wrote and for what PostgreSQL prints of it. The printed text has
 * other brackets, casts and aliases, and they differ between versions.
 */

const QUALIFIER = /(?:"(?:[^"]|"")*"|\b[a-z_]\w*)\.(?=[a-z_"])/gi
const CAST =
  /::(?:"(?:[^"]|"")*"\.)?[a-z_]\w*(?:\.[a-z_]\w*)?(?: with(?:out)? time zone| precision| varying)?(?:\[\])*/gi
const WORDS = /'(?:[^']|'')*'|\w+|[-+*/<>=~!@#%^&|?]+/g

function words(text: string): readonly string[] {
  const plain = text.replace(/--.*$/gm, '').replace(CAST, '').replace(QUALIFIER, '')
  return [...plain.matchAll(WORDS)].map(([word]) => (word.startsWith("'") ? word : word.toLowerCase()))
}

/** Of a view, or of a foreign key: all words in order, but for the names of columns and what is left out as well. */
export function viewWords(text: string): string {
  return words(text.replace(/\bas \w+/gi, ''))
    .join(' ')
    .replaceAll(' else null end', ' end')
}

/** Of a check: which words there are. PostgreSQL writes `between` and `in` in another way, and some more often. */
export function checkWords(text: string): string {
  const written = text
    .replace(/\binterval '([^']*)'/gi, (_, value: string) => `'${printed(value)}'`)
    .replace(/\bbetween\b/gi, '>= <=')
    .replace(/\bin\b/gi, '=')
    .replace(/\b(?:check|and|any|array)\b/gi, ' ')
  return [...new Set(words(written))].sort().join(' ')
}

/** An interval as PostgreSQL prints it: of one unit, as the checks have it. */
function printed(interval: string): string {
  const [, n = '0', unit = ''] = /^(\d+) ?(second|minute|hour)?s?$/.exec(interval) ?? []
  if (n === '0' && interval !== '0') return interval
  const seconds = Number(n) * (unit === 'hour' ? 3600 : unit === 'minute' ? 60 : 1)
  const two = (value: number): string => String(Math.floor(value)).padStart(2, '0')
  return `${two(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`
}
