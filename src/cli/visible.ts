/**
 * What the command line prints comes from members, who may be anybody. It must not move the cursor, change colours,
 * make the terminal answer, turn text around or hide in it. So these are escaped: controls (C0 with DEL, C1), format
 * characters (with those that change direction), separators of lines, lone surrogates, and all other characters that
 * are drawn as nothing. Variation selectors stay, because emoji need them.
 */
const HIDDEN = /(?![\n\ufe00-\ufe0f])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu

/** Escapes what is hidden. Line breaks stay. In JSON, the escape of a character is equal to the character. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (found) =>
    Array.from({ length: found.length }, (_, n) => escaped(found.charCodeAt(n))).join(''),
  )
}

/** Escapes line breaks and tabs, too: for text that must stay in one line. */
export function inOneLine(text: string): string {
  return visible(text.replaceAll('\n', '\\n').replaceAll('\t', '\\t'))
}

function escaped(code: number): string {
  return `\\u${code.toString(16).padStart(4, '0')}`
}
