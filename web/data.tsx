/** What members carry. Anybody may have written it: it is text here, never markup, and nothing in it is hidden. */
import { inOneLine, visible } from '../src/cli/visible.js'
import { indented, isJson, type Token, tokens } from './json.js'

function Tokens({ of, show }: { readonly of: readonly Token[]; readonly show: (text: string) => string }) {
  return of.map(({ kind, text }) =>
    kind === 'sign' ? show(text) : <span class={`json-${kind}`}>{show(text)}</span>,
  )
}

export interface PreviewProps {
  readonly text: string
  /** The text is the beginning of something longer. */
  readonly isCut?: boolean
}

export function Preview({ text, isCut = false }: PreviewProps) {
  if (text === '') return <span class="muted">no data</span>
  return (
    <bdi class="data">
      {!isCut && isJson(text) ? <Tokens of={spaced(tokens(text))} show={inOneLine} /> : inOneLine(text)}
      {isCut && '…'}
    </bdi>
  )
}

function spaced(found: readonly Token[]): Token[] {
  return found.map((token) =>
    token.kind === 'sign' && /^[:,]$/.test(token.text) ? { ...token, text: `${token.text} ` } : token,
  )
}

export function WholeData({ text }: { readonly text: string }) {
  if (text === '') return <p class="muted">This member carries no data.</p>
  return (
    <pre class="data" tabIndex={0} aria-label="Data">
      {isJson(text) ? <Tokens of={indented(text)} show={visible} /> : visible(text)}
    </pre>
  )
}
