/** JSON for reading. The text stays what it was: a number is not rounded, and no name is dropped. */

export interface Token {
  readonly kind: 'name' | 'text' | 'number' | 'word' | 'sign'
  readonly text: string
}

const TOKENS = /("(?:\\.|[^"\\])*(?:"|$))(\s*:)?|(-?\d[\d.eE+-]*)|(true|false|null)|([{}[\],:])|([^\s])/g
/** Longer ones are shown as they are: a browser would be slow with so many colours. */
const MAX_LENGTH = 50_000

export function isJson(text: string): boolean {
  if (text.length > MAX_LENGTH || !/^\s*[[{]/.test(text)) return false
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** Also for the beginning of a JSON text: what does not fit is a sign. */
export function tokens(text: string): Token[] {
  return [...text.matchAll(TOKENS)].flatMap(([all, quoted, colon, number, word]): Token[] => {
    if (quoted !== undefined && colon !== undefined) {
      return [
        { kind: 'name', text: quoted },
        { kind: 'sign', text: ':' },
      ]
    }
    if (quoted !== undefined) return [{ kind: 'text', text: quoted }]
    if (number !== undefined) return [{ kind: 'number', text: number }]
    return [{ kind: word === undefined ? 'sign' : 'word', text: all }]
  })
}

/** For a line with little room: no scheme, and of JSON the values only. */
export function inShort(text: string): string {
  if (!/^\s*[[{]/.test(text)) return withoutScheme(text)
  const values = tokens(text).filter(({ kind }) => kind === 'text' || kind === 'number' || kind === 'word')
  return values
    .map(({ kind, text: value }) => (kind === 'text' ? withoutScheme(value.replace(/^"|"$/g, '')) : value))
    .join(' ')
}

function withoutScheme(text: string): string {
  return text.replace(/^[a-z][a-z0-9+.-]{1,15}:\/\//i, '')
}

/** With line breaks and indents. */
export function indented(text: string): Token[] {
  const out: Token[] = []
  let depth = 0
  const newLine = (): void => void out.push({ kind: 'sign', text: `\n${'  '.repeat(depth)}` })
  const found = tokens(text)
  found.forEach((token, n) => {
    const next = found[n + 1]?.text
    const isEmpty = /^[[{]$/.test(found[n - 1]?.text ?? '') && found[n - 1]?.kind === 'sign'
    if (token.kind !== 'sign') out.push(token)
    else if (token.text === '{' || token.text === '[') {
      out.push(token)
      depth += 1
      if (next !== '}' && next !== ']') newLine()
    } else if (token.text === '}' || token.text === ']') {
      depth = Math.max(0, depth - 1)
      if (!isEmpty) newLine()
      out.push(token)
    } else if (token.text === ',') {
      out.push(token)
      newLine()
    } else out.push({ kind: 'sign', text: token.text === ':' ? ': ' : token.text })
  })
  return out
}
