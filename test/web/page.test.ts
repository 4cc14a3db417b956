/** The page, as people see it. */
import { randomUUID } from 'node:crypto'
import type { Browser } from 'playwright-core'
import { beforeAll, describe, expect, test } from 'vitest'
import { faintTexts, openPage, screenshot, startBrowser } from '../support/browser.js'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { writePast } from '../support/past.js'
import { startProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { startWorker } from '../support/worker.js'
import { afternoon, CROWD, crowd, FINDINGS } from './world.js'

let browser: Browser
let admin: AdminClient
/** With the clusters of `afternoon()`; nobody else writes there. */
let schema: string

beforeAll(async () => {
  admin = await adminClient()
  schema = await freshSchema()
  await admin.query(`set search_path = ${schema}`)
  await writePast(admin, afternoon())
  browser = await startBrowser()
  return async () => {
    await browser.close()
    await admin.end()
  }
})

const HOUR = '#span=3600'
/** A row of a table, an entry of a list. */
const MEMBER_ROWS = 'table tbody tr'

/** Heartbeats as fresh as if the members lived. */
async function beat(): Promise<void> {
  await admin.query(
    `update ${schema}.members set heartbeat_at = clock_timestamp() - (token % 4) * interval '1.1 s'`,
  )
}

test('contract: it shows members, changes, the timeline and what the doctor found', async () => {
  await beat()
  const { tab } = await openPage(browser, { schema, hash: HOUR, findings: FINDINGS, height: 1050 })
  await tab.getByText('worker-d pid 90 draining').first().waitFor()
  await tab.getByRole('group', { name: 'Stays of members' }).getByText('ledger').waitFor()
  expect(await tab.title()).toBe('9 members · pg-membership')
  expect(await tab.locator(MEMBER_ROWS).count()).toBe(9)
  expect(await tab.getByText('leader', { exact: true }).count()).toBeGreaterThanOrEqual(3)
  const feed = tab.getByRole('list', { name: 'Changes' })
  await feed.getByText('left: crashed').first().waitFor()
  await feed.getByText('maria: takes jobs and never ends them').waitFor()
  const [warning, note] = await tab
    .getByRole('region', { name: 'Doctor' })
    .getByRole('listitem')
    .allInnerTexts()
  expect(warning).toMatch(/^warning The log.*\n+.*nobody trims it.*\n+.*trim_events/)
  expect(note).toMatch(/^note/)
  await screenshot(tab, 'light')
})

test('contract: it can be narrowed to one cluster, and to members by what they carry', async () => {
  const { tab } = await openPage(browser, { schema, hash: HOUR })
  await tab.getByLabel('Cluster', { exact: true }).selectOption('jobs')
  await until(async () => (await tab.locator(MEMBER_ROWS).count()) === 3, { message: 'members of jobs only' })
  expect(tab.url()).toContain('cluster=jobs')
  await tab.getByRole('searchbox').fill('DRAIN')
  await until(async () => (await tab.locator(MEMBER_ROWS).count()) === 1, { message: 'the one that drains' })
  await tab.getByRole('searchbox').fill('nobody')
  await tab.getByText('No member matches “nobody”.').waitFor()
  await tab.reload()
  await until(async () => (await tab.locator(MEMBER_ROWS).count()) === 3, { message: 'as the address says' })
})

test('contract: one sees a member join, and crash', async () => {
  const name = uniqueName()
  const { tab } = await openPage(browser, { schema, hash: `#cluster=${name}` })
  await tab.getByText(`Nobody is a member of ${name} now.`).waitFor()
  const worker = await startWorker()
  await worker.ask('open', { connection: databaseUrl(), schema, name })
  await worker.ask('join', { data: '{"url":"http://10.0.0.1:8080","weight":12345678901234567890}' })
  const row = tab.locator(MEMBER_ROWS).filter({ hasText: 'http://10.0.0.1:8080' })
  await row.waitFor()
  await row.getByText('leader').waitFor()
  await row.getByRole('button').click()
  await tab.getByRole('dialog').getByText('"weight": 12345678901234567890').waitFor()
  await tab.keyboard.press('Escape')
  const watcher = await startWorker()
  await watcher.ask('open', { connection: databaseUrl(), schema, name })
  await watcher.ask('follow')
  await worker.kill()
  await tab.getByRole('list', { name: 'Changes' }).getByText('left: crashed').waitFor()
  await tab.getByText(`Nobody is a member of ${name} now.`).waitFor()
})

describe('a look at the past', () => {
  test('contract: the slider shows who was there and what had changed by then', async () => {
    const { tab } = await openPage(browser, { schema, hash: HOUR })
    const slider = tab.getByRole('slider')
    await slider.waitFor()
    await slider.focus()
    // Half of the hour: the old worker-c is there, and worker-d is not.
    await slider.fill('500')
    await tab.getByText(/^As of/).waitFor()
    const members = tab.getByRole('region', { name: /^Members/ })
    await members.getByText('worker-c pid 31').waitFor()
    expect(await members.getByText('worker-d').count()).toBe(0)
    await until(
      async () => !(await tab.getByRole('list', { name: 'Changes' }).innerText()).includes('updated'),
      {
        message: 'only earlier changes',
      },
    )
    expect(await tab.getByRole('columnheader', { name: 'Heartbeat' }).count()).toBe(0)
    const before = tab.url()
    await tab.keyboard.press('ArrowLeft')
    await until(() => tab.url() !== before, { message: 'the address says the time' })
    await tab.getByRole('button', { name: 'Back to now' }).click()
    await members.getByText('worker-d').waitFor()
    expect(tab.url()).not.toContain('at=')
  })

  test('contract: the timeline goes back to any time', async () => {
    const { tab } = await openPage(browser, { schema, hash: '#span=21600&cluster=jobs' })
    const stays = tab.getByRole('group', { name: 'Stays of members' })
    await stays.getByText('worker-d').waitFor()
    for (let n = 0; n < 3; n++) await tab.getByRole('button', { name: 'Earlier' }).click()
    await until(async () => !(await stays.innerText()).includes('worker-d'), {
      message: 'who came later is not there',
    })
    await stays.getByText('worker-a').waitFor()
    const [{ now }] = (await admin.query<{ now: Date }>('select now()')).rows as [{ now: Date }]
    const at = new Date(now.getTime() - 30 * 3_600_000)
    // The input takes the time of who looks: Berlin's, in winter.
    await tab
      .getByLabel('Time', { exact: true })
      .fill(new Date(at.getTime() + 3_600_000).toISOString().slice(0, 19))
    await tab.getByText('Nobody was a member at').waitFor()
    await tab.getByText('The log has no changes before that time.').waitFor()
  })
})

describe('contract: what members wrote is text', () => {
  const MARKUP = `<img src=x onerror="alert(1)"><script>alert(2)</script><style>*{display:none}</style>`

  test('markup, links and characters that turn text around do nothing', async () => {
    const cluster = `${uniqueName()}"><script>alert(3)</script>`
    const id = randomUUID()
    await writePast(admin, [
      { cluster, id, data: `${MARKUP}\u202egnp.exe\u0000`, joinedAgoMs: 60_000 },
      { cluster, data: `{"a":"${MARKUP.replaceAll('"', '\\"')}","__proto__":{"x":1}}`, joinedAgoMs: 50_000 },
      { cluster, data: 'javascript:alert(4)', joinedAgoMs: 40_000, leftAgoMs: 30_000, reason: 'expired' },
    ])
    const { tab } = await openPage(browser, { schema, hash: `#cluster=${encodeURIComponent(cluster)}` })
    await tab
      .getByRole('region', { name: /^Members/ })
      .getByText('<script>alert(2)</script>')
      .first()
      .waitFor()
    await tab.getByText('javascript:alert(4)').first().waitFor()
    await tab.getByRole('button', { name: id.slice(-8) }).click()
    await tab.getByLabel('Data', { exact: true }).getByText('\\u202egnp.exe␀').waitFor()
    expect(await tab.locator('body script, body style, img[src="x"], a').count()).toBe(0)
    expect(await tab.locator('main').innerText()).not.toContain('\u202e')
    await admin.query('delete from members where cluster = $1', [cluster])
    await admin.query('select drop_cluster($1)', [cluster])
  })
})

test('contract: while the database is away it says so and what to do, keeps what it has, and comes back', async () => {
  await using proxy = await startProxy(databaseUrl())
  const { tab, page } = await openPage(browser, { schema, connection: proxy.url(databaseUrl()), hash: HOUR })
  await tab.getByText('worker-a pid 4711').first().waitFor()
  await proxy.cut()
  await tab
    .getByRole('alert')
    .getByText(/The database cannot be reached: .*Look whether PostgreSQL runs/)
    .waitFor()
  expect(await tab.locator(MEMBER_ROWS).count()).toBe(9)
  await screenshot(tab, 'away')
  await proxy.restore()
  await tab.getByRole('alert').waitFor({ state: 'detached' })
  await tab.getByText('Live', { exact: true }).waitFor()
  page.close()
  await tab.getByRole('alert').getByText('Look whether pg-membership web still runs').waitFor()
})

test('contract: everything can be reached and used with the keyboard', async () => {
  const { tab } = await openPage(browser, { schema, hash: `${HOUR}&cluster=jobs` })
  await tab.locator(MEMBER_ROWS).first().waitFor()
  const reached: string[] = []
  const focused = `(() => { const e = document.activeElement
    return [e.ariaLabel ?? e.labels?.[0]?.innerText ?? e.innerText.split('\\n')[0], getComputedStyle(e).outlineStyle].join('|') })()`
  for (let n = 0; n < 20; n++) {
    await tab.keyboard.press('Tab')
    reached.push(await tab.evaluate<string>(focused))
  }
  const names = reached.map((entry) => entry.split('|')[0])
  expect(names).toEqual(
    expect.arrayContaining([
      'Cluster',
      'Earlier',
      'Length of the timeline',
      'Time',
      'The time that is looked at',
      'Stays of members',
      'Heartbeat',
    ]),
  )
  // Whatever has the focus shows it.
  expect(reached.filter((entry) => entry.endsWith('|none'))).toEqual([])
  await tab.locator(MEMBER_ROWS).first().getByRole('button').focus()
  await tab.keyboard.press('Enter')
  await tab.getByRole('dialog').getByText('worker-a pid 4711').waitFor()
  await tab.keyboard.press('Escape')
  await tab.getByRole('dialog').waitFor({ state: 'detached' })
  expect(await tab.evaluate<string>('document.activeElement.innerText')).toMatch(/…[0-9a-f]{8}$/)
})

describe.each([
  ['light', false],
  ['dark', true],
])('in the %s scheme', (scheme, dark) => {
  test('contract: text can be read (WCAG AA), also at 400 pixels, where nothing is cut off', async () => {
    await beat()
    const { tab } = await openPage(browser, {
      schema,
      hash: HOUR,
      findings: FINDINGS,
      dark,
      width: 400,
      height: 800,
    })
    await tab.locator(MEMBER_ROWS).first().waitFor()
    await tab.getByRole('list', { name: 'Changes' }).getByText('left: expired').first().waitFor()
    expect(await faintTexts(tab)).toEqual([])
    expect(await tab.evaluate<number>('document.documentElement.scrollWidth')).toBe(400)
    await screenshot(tab, `narrow-${scheme}`)
    await tab.setViewportSize({ width: 1280, height: 1050 })
    expect(await tab.evaluate<number>('document.documentElement.scrollWidth')).toBe(1280)
    expect(await faintTexts(tab)).toEqual([])
    await screenshot(tab, `wide-${scheme}`)
    await tab.getByRole('slider').fill('500')
    await tab
      .getByRole('region', { name: /^Members/ })
      .getByText('worker-c pid 31')
      .waitFor()
    expect(await faintTexts(tab)).toEqual([])
    await screenshot(tab, `past-${scheme}`)
  })
})

test('contract: with 5,000 members it shows 50 at a time, and finds any of them', async () => {
  const large = await freshSchema()
  await using owner = await adminClient()
  await owner.query(`set search_path = ${large}`)
  await writePast(owner, crowd())
  const { tab } = await openPage(browser, { schema: large, hash: HOUR })
  await tab.getByText(`1 to 50 of ${String(CROWD)}`).waitFor()
  expect(await tab.locator(MEMBER_ROWS).count()).toBe(50)
  await tab.getByText(/^Shown are 300 of the 5400 stays/).waitFor()
  await screenshot(tab, 'large')
  await tab.getByRole('button', { name: 'Next' }).click()
  await tab.getByText(`51 to 100 of ${String(CROWD)}`).waitFor()
  await tab.getByRole('searchbox').fill('http://10.7.77.1:')
  await until(async () => (await tab.locator(MEMBER_ROWS).count()) === 1, { message: 'the one member' })
  await tab.getByRole('searchbox').fill('')
  await owner.query(
    `update members set heartbeat_at = clock_timestamp() - case token when 4711 then interval '1 min' else '0' end`,
  )
  await tab.getByRole('button', { name: /^Heartbeat/ }).click()
  await until(async () => (await tab.locator(MEMBER_ROWS).first().innerText()).includes('overdue'), {
    message: 'the silent one comes first',
  })
})

test('contract: an empty schema says how a member appears', async () => {
  const { tab } = await openPage(browser, { schema: await freshSchema() })
  await tab.getByText('membership.register()').waitFor()
  await tab.getByText('Nobody was a member in this time.').waitFor()
  await tab.getByText('The log has no changes.').waitFor()
  await screenshot(tab, 'empty')
})
