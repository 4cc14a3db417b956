/** Makes the picture of the page in README: docs/images/page.png. */
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { chromium } from 'playwright-core'
import { servePage } from '../../dist/web/server.js'
import { writePast } from '../support/past.js'
import { startPostgres } from '../support/postgres-server.js'
import { pathOf } from '../support/require-programs.js'
import { afternoon, FINDINGS } from './world.js'

await using server = await startPostgres({ fsync: false })
await migrate({ connection: server.url })
const admin = new pg.Client(server.url)
await admin.connect()
await admin.query('set search_path = pgmembership')
await writePast(admin, afternoon())
const page = await servePage({
  connection: server.url,
  schema: 'pgmembership',
  host: '127.0.0.1',
  port: 0,
  diagnose: () => Promise.resolve(FINDINGS.filter(({ severity }) => severity === 'warning')),
})
const browser = await chromium.launch({ executablePath: pathOf('chromium') })
const context = await browser.newContext({
  viewport: { width: 1120, height: 900 },
  reducedMotion: 'reduce',
  locale: 'en-GB',
})
const tab = await context.newPage()
await admin.query(`update members set heartbeat_at = clock_timestamp() - (token % 4) * interval '1.1 s'`)
await tab.goto(`${page.url}#span=3600`)
await tab.getByText('worker-d pid 90 draining').first().waitFor()
await tab.getByRole('group', { name: 'Stays of members' }).getByText('ledger').waitFor()
await tab.screenshot({ path: fileURLToPath(new URL('../../docs/images/page.png', import.meta.url)) })
await browser.close()
page.close()
await admin.end()
