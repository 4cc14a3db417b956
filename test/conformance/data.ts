import fc from 'fast-check'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, dataOf, fresh, idsOf, join, shows } from './world.js'

const MEBIBYTE = 1_048_576

export function data(check: Declare): void {
  check('contract: data is the empty string unless said otherwise', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    expect(membership.data).toBe('')
    await membership.register()
    expect(dataOf(await cluster.getMembers())).toEqual([''])
  })

  check('contract: data set before registering is what others see first', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership({ data: 'first thought' })
    await membership.setData('second thought')
    expect(membership.data).toBe('second thought')
    expect(await fresh(cluster)).toEqual([])
    await membership.register()
    expect(dataOf(await cluster.getMembers())).toEqual(['second thought'])
    expect(dataOf(await fresh(world.open()))).toEqual(['second thought'])
  })

  check('promise 1: data set while registering is shown once setData has resolved', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    for (let n = 0; n < 10; n++) {
      const membership = cluster.createMembership({ data: 'before' })
      const registered = membership.register()
      await bounded(membership.setData('during'), 'setData')
      const lease = await bounded(registered, 'register')
      expect(cluster.snapshot?.get(membership.id)).toMatchObject({ data: 'during', token: lease.token })
      expect(dataOf(await fresh(observer))).toEqual(['during'])
      await membership.deregister()
    }
  })

  check('promise 1: data set while registered is shown once setData has resolved', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { data: 'before' })
    const before = cluster.snapshot?.get(membership.id)
    await membership.setData('after')
    expect(cluster.snapshot?.get(membership.id)).toEqual({ ...before, data: 'after' })
    expect(dataOf(await fresh(world.open()))).toEqual(['after'])
  })

  check('contract: a change of data keeps token, place and lease', async (world) => {
    const cluster = world.open()
    const first = await join(cluster, { data: 'first' })
    await join(cluster, { data: 'second' })
    const { lease } = first
    await first.setData('changed')
    expect(dataOf(await cluster.getMembers())).toEqual(['changed', 'second'])
    expect(first.lease).toBe(lease)
    expect(lease?.signal.aborted).toBe(false)
  })

  check('contract: data survives a stay outside, and can be changed there', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { data: 'kept' })
    await membership.deregister()
    await membership.register()
    expect(dataOf(await cluster.getMembers())).toEqual(['kept'])
    await membership.deregister()
    await membership.setData('changed outside')
    await membership.register()
    expect(dataOf(await cluster.getMembers())).toEqual(['changed outside'])
  })

  check('promise 1: of many values set at once the last one wins, and every call resolves', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster)
    const set = Array.from({ length: 100 }, (_, n) => membership.setData(`value ${String(n)}`))
    expect(membership.data).toBe('value 99')
    await bounded(Promise.all(set), 'all calls resolve')
    expect(dataOf(cluster.snapshot?.members)).toEqual(['value 99'])
    expect(dataOf(await fresh(observer))).toEqual(['value 99'])
  })

  check(
    'promise 1: whichever setData resolves, the snapshot shows its value or a later one',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster, { data: '-1' })
      await Promise.all(
        Array.from({ length: 50 }, async (_, n) => {
          await membership.setData(String(n))
          expect(Number(cluster.snapshot?.get(membership.id)?.data)).toBeGreaterThanOrEqual(n)
        }),
      )
    },
  )

  check('promise 2: members that change their data at once all come to show their last', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    await observer.getMembers()
    const memberships = await Promise.all(Array.from({ length: 10 }, () => join(cluster)))
    await Promise.all(
      memberships.flatMap((membership) =>
        Array.from({ length: 10 }, (_, n) => membership.setData(`${membership.id} ${String(n)}`)),
      ),
    )
    const expected = idsOf(cluster.snapshot?.members)?.map((id) => `${id} 9`) ?? []
    expect(expected).toHaveLength(10)
    expect(dataOf(cluster.snapshot?.members)).toEqual(expected)
    await shows(observer, expected)
  })

  check('contract: two members may carry the same data', async (world) => {
    const cluster = world.open()
    const [one, two] = [await join(cluster, { data: 'same' }), await join(cluster, { data: 'same' })]
    expect(idsOf(await cluster.getMembers())).toEqual([one.id, two.id])
    await one.setData('other')
    expect(dataOf(await cluster.getMembers())).toEqual(['other', 'same'])
  })

  check('contract: data set while the database is away arrives when it is back', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster, { data: 'before' })
    await world.disconnect(cluster)
    const set = ['one', 'two', 'three'].map((value) => membership.setData(value))
    expect(membership.data).toBe('three')
    expect(dataOf(await fresh(observer))).toEqual(['before'])
    await world.reconnect(cluster)
    await bounded(Promise.all(set), 'all calls resolve')
    expect(dataOf(cluster.snapshot?.members)).toEqual(['three'])
    expect(dataOf(await fresh(observer))).toEqual(['three'])
  })

  for (const [what, value] of [
    ['nothing', ''],
    ['U+0000', '\0'],
    ['U+0000 between others', 'a\0b\0\0c\0'],
    ['an emoji', '\u{1f98a}'],
    ['a family of code points', '\u{1f469}\u200d\u{1f469}\u200d\u{1f467}\u200d\u{1f466}'],
    ['combining marks, composed and not', '\u00e9 e\u0301'],
    ['a byte order mark', '\ufefftext'],
    ['noncharacters', '\ufffe\uffff\u{10ffff}'],
    ['line ends of all kinds', '\r\n\n\r\u2028\u2029\u0085'],
    ['white space at its ends', ' \t text \t '],
    ['quotes and backslashes', `'"\\x00\\000\\\\$1$$;--`],
    ['JSON', JSON.stringify({ url: 'http://10.0.0.7:8080', weights: [1, 2, 3] })],
    ['latin1 of all bytes', String.fromCharCode(...Array.from({ length: 256 }, (_, byte) => byte))],
    ['200 kB', 'x'.repeat(200_000)],
    ['200 kB of emojis', '\u{1f98a}'.repeat(50_000)],
    ['1 MiB', 'x'.repeat(MEBIBYTE)],
    ['1 MiB of two-byte characters', 'é'.repeat(MEBIBYTE / 2)],
  ] as const) {
    check(`contract: data comes back identical: ${what}`, async (world) => {
      const cluster = world.open()
      const observer = world.open()
      const membership = await join(cluster, { data: value })
      expect(cluster.snapshot?.get(membership.id)?.data === value).toBe(true)
      expect((await fresh(observer))[0]?.data === value).toBe(true)
      await membership.setData('between')
      await membership.setData(value)
      expect(cluster.snapshot?.get(membership.id)?.data === value).toBe(true)
      expect((await fresh(observer))[0]?.data === value).toBe(true)
    })
  }

  check('contract: data comes back identical: any well-formed string', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster)
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 200 }), async (value) => {
        await membership.setData(value)
        expect(cluster.snapshot?.get(membership.id)?.data).toBe(value)
        expect(dataOf(await fresh(observer))).toEqual([value])
      }),
      { numRuns: 100 },
    )
  })
}
