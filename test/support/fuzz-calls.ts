/** Calls of the schema's functions with arguments that nobody would send, as plain data that fast-check prints. */
import fc from 'fast-check'

/** A value to be known only when the call is made: ids and tokens are new in each run. */
export type Value =
  | null
  | string
  | { readonly member: number; readonly as: 'id' | 'token' | 'older token' | 'next token' | 'session' }
  | { readonly stranger: number }
  | { readonly cluster: number; readonly suffix?: string }
  | { readonly repeat: string; readonly times: number }
  | { readonly own: 'pid' }

export interface List {
  readonly list: readonly Value[]
  /** nested: one row of a matrix for each; shifted: the first has another index than 1. */
  readonly shape: 'plain' | 'nested' | 'shifted'
}

export type Argument = Value | List

export interface Routine {
  readonly name: string
  readonly parameters: readonly { readonly name: string; readonly type: string }[]
}

export interface Call {
  readonly call: Routine
  readonly args: readonly Argument[]
}

export const MEMBERS = 4
const MEBIBYTE = 1_048_576

const member = fc.nat(MEMBERS - 1)
const named = (as: 'id' | 'token' | 'older token' | 'next token' | 'session'): fc.Arbitrary<Value> =>
  member.map((n) => ({ member: n, as }))
const ids = fc.oneof(
  { arbitrary: named('id'), weight: 4 },
  { arbitrary: fc.nat(2).map((stranger): Value => ({ stranger })), weight: 2 },
  { arbitrary: fc.constant<Value>(null), weight: 1 },
)
const numbers = fc.oneof(
  { arbitrary: named('token'), weight: 4 },
  fc.constantFrom<Value>(null, '0', '1', '2', '-1', '1000000001', '9007199254740991', '9007199254740993'),
  fc.constantFrom<Value>('9223372036854775807', '-9223372036854775808', '999999999'),
  named('older token'),
  named('next token'),
)
const clusters = fc.oneof(
  { arbitrary: fc.nat(1).map((cluster): Value => ({ cluster })), weight: 5 },
  fc.constantFrom<Value>(
    { cluster: 0, suffix: ' unknown' },
    { cluster: 1, suffix: `'; drop table members; --` },
  ),
)
const texts = fc.oneof(
  named('session'),
  fc.constantFrom<Value>(null, '', 'null', '\\', '%s', '🐘', '{}', '\u0001', '\0', `' or true; --`),
  fc.constantFrom<Value>({ repeat: 'x', times: MEBIBYTE }, { repeat: 'ä', times: 128 }),
)
const contents = fc.oneof(
  { arbitrary: fc.constantFrom<Value>('\\x', '\\x00', '\\xff5c30', '\\x61', null), weight: 12 },
  fc.constantFrom(MEBIBYTE, MEBIBYTE + 1).map((times): Value => ({ repeat: 'a', times })),
)
const moments = fc.constantFrom<Value>(
  ...['infinity', '-infinity', 'now', 'epoch', 'tomorrow', 'yesterday', '294276-12-31', '4714-11-24 BC'],
  null,
)
const spans = fc.constantFrom<Value>(
  ...['15 s', '1 s', '1 day', '10 min', '0', '-1 s', '1 mon -29 days', '178000000 years', 'infinity'],
  null,
)
const booleans = fc.constantFrom<Value>('true', 'false', null)
const integers = fc.constantFrom<Value>({ own: 'pid' }, '0', '-1', '2147483647', null)

const OF_TYPE: Readonly<Record<string, fc.Arbitrary<Value>>> = {
  uuid: ids,
  bigint: numbers,
  bytea: contents,
  'timestamp with time zone': moments,
  interval: spans,
  boolean: booleans,
  integer: integers,
}

function scalar(name: string, type: string): fc.Arbitrary<Value> {
  if (type !== 'text') {
    const values = OF_TYPE[type]
    if (values === undefined) throw new Error(`no values of type ${type}: add some`)
    return values
  }
  if (name === 'cluster_name') {
    return fc.oneof({ arbitrary: clusters, weight: 12 }, { arbitrary: texts, weight: 1 })
  }
  // As fence(text, text) takes them.
  if (name === 'member') return fc.oneof(ids, texts)
  if (name === 'registration') return fc.oneof(numbers, texts)
  return texts
}

const shapes = fc.oneof(
  { arbitrary: fc.constant<List['shape']>('plain'), weight: 8 },
  fc.constantFrom<List['shape']>('nested', 'shifted'),
)

/** One registration's id, number and data: often those that belong together. */
const rows = fc.oneof(
  member.chain((n) =>
    fc.record({
      uuid: fc.constant<Value>({ member: n, as: 'id' }),
      bigint: fc.constantFrom<Value>({ member: n, as: 'token' }, { member: n, as: 'older token' }, '0'),
      bytea: contents,
    }),
  ),
  fc.record({ uuid: ids, bigint: numbers, bytea: contents }),
)

/** Arrays mostly fit together, otherwise nothing would ever happen. */
function argumentsOf({ parameters }: Routine): fc.Arbitrary<Argument[]> {
  return fc.array(rows, { maxLength: 4 }).chain((together) =>
    fc.tuple(
      ...parameters.map(({ name, type }): fc.Arbitrary<Argument> => {
        if (!type.endsWith('[]')) return scalar(name, type)
        const element = type.slice(0, -2)
        if (element !== 'uuid' && element !== 'bigint' && element !== 'bytea' && element !== 'text') {
          throw new Error(`no arrays of type ${type}: add some`)
        }
        const fitting =
          element === 'text'
            ? fc.array(scalar(name.replace(/s$/, ''), element), { maxLength: 4 })
            : fc.constant(together.map((row) => row[element]))
        const odd = fc.array(scalar(name, element), { maxLength: 5 })
        const list = fc.oneof({ arbitrary: fitting, weight: 7 }, { arbitrary: odd, weight: 1 })
        return fc.oneof(
          { arbitrary: fc.record({ list, shape: shapes }), weight: 20 },
          { arbitrary: fc.constant(null), weight: 1 },
        )
      }),
    ),
  )
}

export function callsOf(routines: readonly Routine[]): fc.Arbitrary<Call> {
  return fc
    .constantFrom(...routines)
    .chain((routine) => argumentsOf(routine).map((args) => ({ call: routine, args })))
}

/** As PostgreSQL reads an array. */
export function arrayLiteral(values: readonly (string | null)[], shape: List['shape']): string {
  const elements = values.map((value) =>
    value === null ? 'NULL' : `"${value.replace(/["\\]/g, (special) => `\\${special}`)}"`,
  )
  if (elements.length === 0 || shape === 'plain') return `{${elements.join(',')}}`
  if (shape === 'nested') return `{${elements.map((element) => `{${element}}`).join(',')}}`
  return `[5:${4 + elements.length}]={${elements.join(',')}}`
}
