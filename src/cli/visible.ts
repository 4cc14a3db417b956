/**
 * What the command line prints comes from members, who may be anybody. It must not move the cursor, colour or
 * answer for the terminal, turn text around or hide in it: controls (C0 with DEL, C1), format characters (with
 * those that change direction), separators of lines, lone surrogates, and whatever else is drawn as nothing.
 * Variation selectors stay, which emoji need.
 */
const HIDDEN = /(?![\n\ufe00-\ufe0f])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu

/** Line breaks stay. In JSON, what stands for a character is equal to it. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (found) =>
    Array.from({ length: found.length }, (_, n) => escaped(found.charCodeAt(n))).join(''),
  )
}

/** Of what stands in one line among others. */
export function inOneLine(text: string): string {
  return visible(text.replaceAll('\n', '\\n').replaceAll('\t', '\\t'))
}

function escaped(code: number): string {
  return `\\u${code.toString(16).padStart(4, '0')}`
}
