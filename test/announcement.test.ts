import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Delta, Position } from '../src/engine/store.js'
import { Announcements } from '../src/postgres/announcements.js'

const key = randomBytes(32)
const hints = 'member_00'
const SERVER = '1795805011.945317'
const stamps = Array.from({ length: 20 }, () => randomUUID())
const at = (revision: number): Position => ({
  revision,
  stamp: revision === 0 ? '' : (stamps[revision] ?? ''),
})
const ids = Array.from({ length: 20 }, () => randomUUID())
const TIME = 1_795_805_025_426

function signed(body: string, by = key): string {
  return `${createHmac('sha256', by).update(body).digest('hex')}\n${body}`
}

interface Announced {
  readonly from: number
  readonly to: number
  readonly last?: number
  readonly first?: number
  readonly server?: string
  readonly channel?: string
  readonly lines?: readonly string[]
}

/** As announce() writes it: one change for each revision, or `lines`. */
function announced({ from, to, last = to, first = from + 1, lines, ...other }: Announced): string {
  const changes = lines ?? Array.from({ length: to - first + 1 }, (_, n) => joined(first + n))
  const { channel = hints, server = SERVER } = other
  const head = [channel, server, from, stamps[from], to, stamps[to], last, first].join(' ')
  return signed([head, ...changes].join('\n'))
}

function joined(revision: number, data = `data ${revision}`): string {
  return `j ${ids[revision]} ${revision} ${TIME} ${Buffer.from(data).toString('base64')}`
}

function revisionsOf(delta: Delta | undefined): number[] | undefined {
  return delta?.changes.map(({ member }) => member.token)
}

const hearer = (): Announcements => new Announcements({ name: 'members_00', key, hints })
const UNTOLD = (to: number): Delta => ({ to: at(to), from: undefined, changes: [] })

test('promise 2: what is announced is a delta, with members as a full read makes them', () => {
  const lines = [joined(3, 'Ω\u0000\n'), `u ${ids[1]} 1 ${TIME} `, `l ${ids[2]} 2 ${TIME} `]
  expect(hearer().hear(announced({ from: 2, to: 5, lines }), SERVER)).toEqual({
    from: at(2),
    to: at(5),
    changes: [
      {
        kind: 'joined',
        member: { id: ids[3], token: 3, data: 'Ω\u0000\n', registeredAt: '2026-11-27T18:43:45.426Z' },
      },
      {
        kind: 'updated',
        member: { id: ids[1], token: 1, data: '', registeredAt: expect.any(String) as string },
      },
      {
        kind: 'left',
        member: { id: ids[2], token: 2, data: '', registeredAt: expect.any(String) as string },
      },
    ],
  })
  expect(hearer().hear(announced({ from: 0, to: 1 }), SERVER)?.from).toEqual({ revision: 0, stamp: '' })
})

describe('promise 10: an announcement counts for nothing', () => {
  const good = announced({ from: 2, to: 3 })
  const body = good.slice(65)
  const cases: Readonly<Record<string, string>> = {
    'without a code': body,
    'with a code by another key': signed(body, randomBytes(32)),
    'with the code of another one': announced({ from: 2, to: 4 }).slice(0, 65) + body,
    'with one changed character': good.replace(`${stamps[2]}`, `${stamps[4]}`),
    'cut short': good.slice(0, -1),
    'with something after it': `${good}\n`,
    'of another cluster': announced({ from: 2, to: 3, channel: 'member_01' }),
    'of another server': announced({ from: 2, to: 3, server: '1795805011.945318' }),
    'that is empty': '',
    'that is garbage': '{"kind":"left"}',
    'that is huge': 'f'.repeat(1_000_000),
  }
  test.each(Object.entries(cases))('%s', (_, payload) => {
    const announcements = hearer()
    expect(announcements.hear(payload, SERVER)).toBeUndefined()
    expect(revisionsOf(announcements.hear(good, SERVER))).toEqual([3])
  })

  test('while no server is known', () => {
    expect(hearer().hear(good, undefined)).toBeUndefined()
  })
})

test('promise 10: what has the right code, and says what cannot be, counts for nothing', () => {
  const line = joined(3)
  const impossible: readonly Announced[] = [
    { from: 3, to: 2, first: 3, lines: [] },
    { from: 2, to: 3, first: 2, lines: [line] },
    { from: 2, to: 3, lines: [line, joined(4)] },
    { from: 2, to: 3, last: 2, lines: [line] },
    { from: 2, to: 3, last: Number.MAX_SAFE_INTEGER + 1, lines: [line] },
    { from: 2, to: 3, lines: [''] },
    { from: 2, to: 3, lines: [line.replace('j', 'x')] },
    { from: 2, to: 3, lines: [line.toUpperCase()] },
    { from: 2, to: 3, lines: [`${line} more`] },
    { from: 2, to: 3, lines: [line.replace(' 3 ', ' -3 ')] },
    { from: 2, to: 3, lines: [line.replace(' 3 ', ' 9007199254740993 ')] },
    { from: 2, to: 3, lines: [line.replace(String(TIME), '9999999999999999')] },
  ]
  for (const one of impossible) {
    expect(hearer().hear(announced(one), SERVER), JSON.stringify(one)).toBeUndefined()
  }
})

test('promise 12: nothing that anybody sends makes it throw, signed or not', () => {
  const words = fc.oneof(
    fc.string(),
    fc.constantFrom(hints, SERVER, ...stamps.slice(0, 3), ...ids.slice(0, 3), 'j', 'u', 'l', 'eA=='),
    fc.integer().map(String),
    fc.bigInt().map(String),
  )
  const text = fc.array(fc.array(words).map((some) => some.join(' '))).map((some) => some.join('\n'))
  fc.assert(
    fc.property(text, fc.boolean(), (some, isSigned) => {
      const delta = hearer().hear(isSigned ? signed(some) : some, SERVER)
      for (const { member } of delta?.changes ?? []) expect(member.id).toMatch(/^[0-9a-f-]{36}$/)
    }),
    { numRuns: 5_000 },
  )
})

describe('promise 4: a transaction is shown whole', () => {
  test('when it was announced on several pages', () => {
    const pages = [
      announced({ from: 2, to: 6, lines: [joined(3), joined(4)] }),
      announced({ from: 2, to: 6, first: 5, lines: [joined(5)] }),
      announced({ from: 2, to: 6, first: 6, lines: [joined(6)] }),
    ]
    const announcements = hearer()
    expect(announcements.hear(pages[0] ?? '', SERVER)).toBeUndefined()
    expect(announcements.hear(pages[1] ?? '', SERVER)).toBeUndefined()
    const delta = announcements.hear(pages[2] ?? '', SERVER)
    expect(delta).toMatchObject({ from: at(2), to: at(6) })
    expect(revisionsOf(delta)).toEqual([3, 4, 5, 6])
  })

  test('when it changed the cluster several times', () => {
    const announcements = hearer()
    expect(announcements.hear(announced({ from: 2, to: 3, last: 6 }), SERVER)).toBeUndefined()
    expect(announcements.hear(announced({ from: 3, to: 5, last: 6 }), SERVER)).toBeUndefined()
    const delta = announcements.hear(announced({ from: 5, to: 6, last: 6 }), SERVER)
    expect(delta).toMatchObject({ from: at(2), to: at(6) })
    expect(revisionsOf(delta)).toEqual([3, 4, 5, 6])
  })

  test('or not at all: what lacks its beginning, or a part, is not told', () => {
    const [first, second, third] = [
      announced({ from: 2, to: 3, last: 5 }),
      announced({ from: 3, to: 4, last: 5 }),
      announced({ from: 4, to: 5, last: 5 }),
    ]
    const announcements = hearer()
    expect(announcements.hear(first, SERVER)).toBeUndefined()
    // It fits no snapshot but one of the middle of the transaction, which there is not.
    expect(announcements.hear(third, SERVER)).toMatchObject({ from: at(4), to: at(5) })
    expect(announcements.hear(second, SERVER)).toBeUndefined()
    expect(announcements.hear(announced({ from: 5, to: 6 }), SERVER)).toMatchObject({
      from: at(5),
      to: at(6),
    })

    const rest = announced({ from: 2, to: 4, first: 4, lines: [joined(4)] })
    expect(hearer().hear(rest, SERVER)).toEqual(UNTOLD(4))
    const announcementsAgain = hearer()
    announcementsAgain.hear(announced({ from: 2, to: 5, lines: [joined(3)] }), SERVER)
    expect(announcementsAgain.hear(announced({ from: 2, to: 5, first: 5 }), SERVER)).toEqual(UNTOLD(5))
  })

  test('or not at all: what was too much is not told', () => {
    expect(hearer().hear(announced({ from: 2, to: 9, lines: [] }), SERVER)).toEqual(UNTOLD(9))
  })
})

test('promise 11: of a transaction that never ends, a bounded part is kept', () => {
  const announcements = new Announcements({ name: 'members_00', key, hints })
  const stamp = randomUUID()
  const last = 1_000_000
  let open = 0
  for (let n = 0; n < 20_000; n += 100) {
    const lines = Array.from({ length: 100 }, (_, i) => `l ${ids[0]} ${n + i + 1} ${TIME} `)
    const head = [hints, SERVER, 0, stamp, last, stamp, last, n + 1].join(' ')
    const delta = announcements.hear(signed([head, ...lines].join('\n')), SERVER)
    if (delta === undefined) open = n
  }
  // Given up after 10,000 changes; then each page lacks its beginning.
  expect(open).toBe(10_000)
})
