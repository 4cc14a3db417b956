/** What the page is shown in the tests and in its screenshots. */
import type { Finding } from '../../dist/web/answers.js'
import type { PastStay } from '../support/past.js'

const MINUTE = 60_000
const HOUR = 3_600_000

function chat(n: number, version: string): string {
  return JSON.stringify({
    url: `http://10.0.3.${String(10 + n)}:8080`,
    zone: `eu-west-1${'abc'[n % 3] ?? ''}`,
    version,
  })
}

/** An afternoon of three small clusters: a rolling deploy, a crash, a machine that was lost. */
export function afternoon(): PastStay[] {
  const deploy = [0, 1, 2, 3, 4].flatMap((n): PastStay[] => [
    {
      cluster: 'chat',
      data: chat(n, '4.11.2'),
      joinedAgoMs: 30 * HOUR + n * MINUTE,
      leftAgoMs: (24 - 2 * n) * MINUTE,
    },
    { cluster: 'chat', data: chat(n, '4.12.0'), joinedAgoMs: (23.4 - 2 * n) * MINUTE },
  ])
  const worker = '5b0fe0a5-8d0b-4a4e-9d5e-0d2f3a9c41d7'
  const jobs: PastStay[] = [
    { cluster: 'jobs', data: 'worker-a pid 4711', joinedAgoMs: 9 * HOUR },
    {
      cluster: 'jobs',
      id: worker,
      data: 'worker-b pid 812',
      joinedAgoMs: 9 * HOUR,
      leftAgoMs: 41 * MINUTE,
      reason: 'crashed',
    },
    {
      cluster: 'jobs',
      id: worker,
      data: 'worker-b pid 977',
      joinedAgoMs: 40 * MINUTE,
      leftAgoMs: 36 * MINUTE,
      reason: 'crashed',
    },
    { cluster: 'jobs', id: worker, data: 'worker-b pid 1204', joinedAgoMs: 35 * MINUTE },
    {
      cluster: 'jobs',
      data: 'worker-c pid 31',
      joinedAgoMs: 8 * HOUR,
      leftAgoMs: 12 * MINUTE,
      reason: 'expired',
    },
    {
      cluster: 'jobs',
      data: 'worker-e pid 55',
      joinedAgoMs: 10 * MINUTE,
      leftAgoMs: 5 * MINUTE,
      reason: 'removed',
      by: { role: 'maria', note: 'takes jobs and never ends them' },
    },
    {
      cluster: 'jobs',
      data: 'worker-d pid 90',
      joinedAgoMs: 7 * MINUTE,
      updates: [{ agoMs: 3 * MINUTE, data: 'worker-d pid 90 draining' }],
    },
  ]
  const ledger: PastStay[] = [
    {
      cluster: 'ledger',
      data: '10.0.7.4:9000',
      joinedAgoMs: 51 * HOUR,
      leftAgoMs: 18 * MINUTE,
      reason: 'expired',
    },
    { cluster: 'ledger', data: '10.0.7.5:9000', joinedAgoMs: 51 * HOUR },
  ]
  return [...deploy, ...jobs, ...ledger]
}

export const CROWD = 5_000

/** One cluster of 5,000 members, and others that came and went. */
export function crowd(): PastStay[] {
  const here = Array.from({ length: CROWD }, (_, n): PastStay => {
    return {
      cluster: 'edge',
      data: `http://10.${String(n >> 8)}.${String(n & 255)}.1:8080`,
      joinedAgoMs: 2 * HOUR + n * 997,
    }
  })
  const gone = Array.from({ length: 400 }, (_, n): PastStay => {
    const leftAgoMs = (n + 1) * 8_000
    return {
      cluster: 'edge',
      data: `http://10.200.${String(n)}.1:8080`,
      joinedAgoMs: leftAgoMs + 20 * MINUTE + n * 3_000,
      leftAgoMs,
      reason: n % 5 === 0 ? 'crashed' : 'deregistered',
    }
  })
  return [...here, ...gone]
}

export const FINDINGS: readonly Finding[] = [
  {
    code: 'example-ok',
    severity: 'ok',
    what: 'The schema has the version of this package.',
    consequence: '',
    todo: '',
  },
  {
    code: 'example-note',
    severity: 'note',
    what: 'No process sends heartbeats through a pooler.',
    consequence: 'Crashes are found by the loss of connections, within about a second.',
    todo: 'Nothing.',
  },
  {
    code: 'example-warning',
    severity: 'warning',
    what: 'The log has 2,104,331 events and takes 812 MB.',
    consequence: 'It grows for ever: nobody trims it.',
    todo: `As the owner, from cron: select pgmembership.trim_events('90 days').`,
  },
]
