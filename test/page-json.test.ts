/** How the page shows data that is JSON. */
import { expect, test } from 'vitest'
import { indented, inShort, isJson, tokens } from '../web/json.js'

const text = (found: readonly { readonly text: string }[]): string => found.map(({ text }) => text).join('')

test.each([
  ['{"a":1}', true],
  [' [1,2]', true],
  ['{}', true],
  ['"only a string"', false],
  ['17', false],
  ['{"a":1', false],
  ['{a:1}', false],
  ['http://10.0.0.1', false],
  [`["${'x'.repeat(50_000)}"]`, false],
])('contract: %.20s is shown as JSON: %s', (data, expected) => {
  expect(isJson(data)).toBe(expected)
})

test('contract: JSON is indented, and every value stays as it was written', () => {
  const data =
    '{"n":12345678901234567890,"f":1.10,"e":-2E+5,"n":0,"__proto__":{"x":null},"list":[1,[],{}],"on":true,"s":"a\\"{b}, \\u0041:"}'
  expect(text(indented(data))).toBe(`{
  "n": 12345678901234567890,
  "f": 1.10,
  "e": -2E+5,
  "n": 0,
  "__proto__": {
    "x": null
  },
  "list": [
    1,
    [],
    {}
  ],
  "on": true,
  "s": "a\\"{b}, \\u0041:"
}`)
  expect(JSON.stringify(JSON.parse(text(indented(data))))).toBe(JSON.stringify(JSON.parse(data)))
})

test('contract: names, texts, numbers and words are told apart', () => {
  expect(tokens('{"a" : "b", "c":[-1.5, true]}').filter(({ kind }) => kind !== 'sign')).toEqual([
    { kind: 'name', text: '"a"' },
    { kind: 'text', text: '"b"' },
    { kind: 'name', text: '"c"' },
    { kind: 'number', text: '-1.5' },
    { kind: 'word', text: 'true' },
  ])
})

test.each([
  ['{"url":"http://10.0.3.7:8080","zone":"eu-west-1a","weight":2}', '10.0.3.7:8080 eu-west-1a 2'],
  ['postgres://host/db', 'host/db'],
  ['worker-a pid 4711', 'worker-a pid 4711'],
  ['{"url":"http://10.0.3.7:80', '10.0.3.7:80'],
  ['', ''],
])('contract: in short, %s is %s', (data, expected) => {
  expect(inShort(data)).toBe(expected)
})

test('contract: of the beginning of a JSON text nothing is lost', () => {
  for (const data of ['{"a":{"b":"unfinis', '{"a":tru', '[1,2,', '{"a"', '{"a":\\', '}{][,:']) {
    const squeezed = (found: string): string => found.replace(/\s/g, '')
    expect(squeezed(text(tokens(data)))).toBe(squeezed(data))
    expect(squeezed(text(indented(data)))).toBe(squeezed(data))
  }
})
