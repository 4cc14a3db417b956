/**
 * Calls every function that a role may execute, as that role, with arguments that nobody would send, among
 * legal traffic. Then it checks that this had no effect that the role may not cause. fast-check prints the
 * seed of a failure: FUZZ_SEED=… repeats it. FUZZ_SECONDS=… looks for longer; `npm run test:fuzz` does.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { catalogOf } from './support/catalog.js'
import { type AdminClient, adminClient } from './support/database.js'
import { Attacker, attacks, type Step } from './support/fuzz-attack.js'
import type { Argument, Routine, Value } from './support/fuzz-calls.js'
import { checkTokens, type Hands, SESSION, World } from './support/fuzz-world.js'
import { type Role, type Roles, startRoles } from './support/roles.js'
import { size } from './support/size.js'

const SECONDS = Number(process.env.FUZZ_SECONDS ?? size(20, 1))
const SEED = process.env.FUZZ_SEED

let granted: Roles
let hands: Hands
const clients: AdminClient[] = []

beforeAll(async () => {
  granted = await startRoles()
  const [admin, locker, member] = await Promise.all([adminClient(), adminClient(), granted.as('member')])
  clients.push(admin, locker, member)
  await member.query(`set application_name = '${SESSION}'`)
  hands = { admin, locker, member, schema: granted.schema }
})
afterAll(() => Promise.all(clients.map((client) => client.end())))

async function routinesOf(role: Role): Promise<Routine[]> {
  const { rows } = await hands.admin.query<Routine>(
    `select proname as name, (
       select json_agg(json_build_object('name', proargnames[n], 'type', format_type(type, null)) order by n)
       from unnest(proargtypes) with ordinality parameter (type, n)
     ) as parameters
     from pg_proc
     where pronamespace = $1::text::regnamespace and has_function_privilege($2, oid, 'execute') and pronargs > 0
     order by oid::regprocedure::text`,
    [granted.schema, granted.nameOf[role]],
  )
  return rows
}

/** Definitions, privileges, and what the roles are: all that no call may change. */
async function constitution(): Promise<string[]> {
  const { rows } = await hands.admin.query<{ line: string }>(
    `select to_json(r)::text as line from pg_roles r where rolname = any ($1)
     union all select to_json(m)::text from pg_auth_members m
     where member in (select oid from pg_roles where rolname = any ($1))
     union all select format('%s %s', oid::regclass, relowner::regrole) from pg_class where relnamespace = 'public'::regnamespace
     order by 1`,
    [Object.values(granted.nameOf)],
  )
  return [...(await catalogOf(hands.admin, granted.schema)), ...rows.map(({ line }) => line)]
}

/** Settings that functions change for themselves. */
async function settingsOf(client: AdminClient): Promise<string> {
  const names = ['lock_timeout', 'synchronous_commit', 'idle_in_transaction_session_timeout']
  const all = [...names, 'client_connection_check_interval', 'statement_timeout', 'session_authorization']
  const { rows } = await client.query<{ settings: string }>(
    `select string_agg(current_setting(name), ' ') as settings from unnest($1::text[]) name`,
    [all],
  )
  return rows[0]?.settings ?? ''
}

/** What once broke a promise, tried first. */
function known(routines: readonly Routine[]): Step[][] {
  const call = (name: string, ...args: Argument[]): Step[] =>
    routines
      .filter((routine) => routine.name === name)
      .map((routine) => ({ call: routine, args: args.slice(0, routine.parameters.length) }))
  const plain = (...list: Value[]): Argument => ({ list, shape: 'plain' })
  const sweep = call('sweep', { cluster: 0 })
  const [id, token]: Value[] = [
    { member: 0, as: 'id' },
    { member: 0, as: 'token' },
  ]
  const newcomer = [{ cluster: 0 }, plain({ stranger: 0 }), plain('\\x'), plain(null)]
  const floors = call('register', ...newcomer, '15 s', null, '', '0', null)
  // So many arguments are seldom all good by chance.
  const good = call(
    'register',
    ...[{ cluster: 0 }, plain({ stranger: 0 }), plain('\\x'), plain('0'), '15 s', null, 'nobody', '0', null],
  )
  const member0 = [id ?? null, token ?? null] as const
  const own4 = [{ cluster: 0 }, '', ...member0] as const
  const batch = { stranger: 0 }
  const leaving = call('deregister', { cluster: 0 }, plain(id ?? null), plain(token ?? null))
  const own = (steps: Step[]): Step[] => [{ begin: 'read committed' }, { queue: true }, ...steps]
  return [
    [{ silence: 0 }, ...own(sweep), { end: 'commit' }],
    [...own(leaving), { end: 'commit' }],
    floors,
    good,
    [
      ...call('claim', ...own4, plain('a')),
      ...call('fence_claims', ...own4, plain('a')),
      ...call('release', ...own4, plain('a')),
    ],
    [
      ...call('stock_nonces', { cluster: 0 }, '', plain('a', 'b')),
      ...call('stock_nonces', { cluster: 0 }, 'a', plain('a', 'b')),
      ...call('take_nonces', { cluster: 0 }, 'a', ...member0, batch, plain(), '2'),
      ...call('use_nonce', { cluster: 0 }, 'a', ...member0, batch, 'a'),
      ...call('return_nonces', { cluster: 0 }, 'a', ...member0, plain('b'), plain(batch), plain()),
    ],
    call('evict', { cluster: 0 }, id ?? null, 'why', '1 s'),
    [...call('drain', { cluster: 0 }, id ?? null, 'why', null), { heartbeat: 0, locked: false }],
    [
      { silence: 0, almost: true },
      { begin: 'repeatable read' },
      { heartbeat: 0, locked: true },
      { awaitEndOfSilence: 0 },
      ...sweep,
      { end: 'commit' },
    ],
  ]
}

async function run(role: Role, steps: readonly Step[]): Promise<void> {
  const world = await World.begin(hands)
  await using client = await granted.as(role)
  await client.query(`set statement_timeout = '20s'`)
  const settings = await settingsOf(client)
  const attacker = new Attacker(client, granted.schema, world, granted.nameOf[role])
  for (const step of steps) await attacker.take(step)
  if (await attacker.leave()) {
    expect(await settingsOf(client), 'settings are as before').toBe(settings)
    // What a serializable transaction has read (SIReadLock) is remembered while others go on: it holds nobody up.
    const { rows } = await client.query(
      `select mode from pg_locks
       where pid = pg_backend_pid() and locktype not in ('virtualxid', 'relation') and mode <> 'SIReadLock'`,
    )
    expect(rows, 'nothing stays locked').toEqual([])
  }
  await world.check()
}

test.each(['reader', 'member', 'operator'] as const)(
  'promise 15: whatever a %s calls, with whatever arguments, no promise of the others is broken',
  async (role) => {
    const before = await constitution()
    const routines = await routinesOf(role)
    await fc.assert(
      fc.asyncProperty(attacks(routines), (steps) => run(role, steps)),
      {
        numRuns: 1_000_000,
        examples: known(routines).map((steps): [Step[]] => [steps]),
        plugins: [fc.interruptAfterTimeLimit(SECONDS * 1_000)],
        ...(SEED === undefined ? {} : { seed: Number(SEED) }),
      },
    )
    await checkTokens(hands.admin, granted.schema, '')
    expect(await constitution(), 'definitions and privileges are as before').toEqual(before)
    if (SECONDS >= 30) {
      const unreached = routines.filter(({ name }) => !Attacker.reached.has(name))
      expect(unreached, 'each was called so that it answered').toEqual([])
    }
  },
  60_000 + SECONDS * 2_000,
)
