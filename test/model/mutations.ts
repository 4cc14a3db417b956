/** For each promise that the model test guards, a small way to break it. The test must find each of them. */

export interface Mutation {
  readonly breaks: string
  readonly file: string
  /** Stands there once. */
  readonly find: string
  readonly replace: string
  /** What the model test may say that is broken. */
  readonly promises: readonly number[]
}

const SQL = 'migrations/0001_membership.up.sql'

export const MUTATIONS: readonly Mutation[] = [
  {
    breaks: 'data that was set is forgotten',
    file: 'src/engine/membership/writer.ts',
    find: `await this.#each(batch, 'set data', (part) => this.#setData(part))`,
    replace: `if (Math.random() < 0.9) await this.#each(batch, 'set data', (part) => this.#setData(part))
    else for (const { state } of batch) if (state.token !== undefined) state.dataSet(state.token, state.version, { revision: 0, stamp: "" })`,
    promises: [1],
  },
  {
    breaks: 'a reader overlooks a change of data',
    file: 'src/engine/snapshot.ts',
    find: 'members[at] = freezeMember(member)',
    replace: 'members[at] = freezeMember(member.token % 7 === 0 ? present : member)',
    promises: [1, 2, 3],
  },
  {
    breaks: 'an announcement needs no code',
    file: 'src/postgres/announcements.ts',
    find: 'if (code.length !== own.length || !timingSafeEqual(code, own)) return undefined',
    replace: 'if (code.length !== own.length) return undefined',
    promises: [2, 3],
  },
  {
    breaks: 'an announcement of another server counts',
    file: 'src/postgres/announcements.ts',
    find: 'page.server !== server',
    replace: 'server === undefined',
    promises: [2, 3],
  },
  {
    breaks: 'deltas are taken in any order',
    file: 'src/engine/deltas.ts',
    find: 'const entry = this.#deltas.get(position.revision)',
    replace: 'const entry = [...this.#deltas.values()].map((other) => ({ ...other, from: position }))[0]',
    promises: [1, 2, 3],
  },
  {
    breaks: 'a feed tells what somebody who left had carried at first',
    file: 'src/postgres/log.ts',
    find: 'order by last.member desc, last.at desc, last.revision desc limit 1',
    replace: 'order by last.member, last.at, last.revision limit 1',
    promises: [4],
  },
  {
    breaks: 'half a transaction is shown',
    file: 'src/postgres/announcements.ts',
    find: 'if (nextOf(page) > page.lastRevision) return { to: page.to, from, changes }',
    replace: 'if (nextOf(page) > page.to.revision) return { to: page.to, from, changes }',
    promises: [4],
  },
  {
    breaks: 'a reader forgets who left',
    file: 'src/engine/snapshot.ts',
    find: 'members.splice(at, 1)',
    replace: 'members.splice(at, member.token % 7 === 0 ? 0 : 1)',
    promises: [3],
  },
  {
    breaks: 'the revision has gaps',
    file: SQL,
    find: 'revision = c.revision + changes,',
    replace: 'revision = c.revision + changes + (random() < 0.1)::integer,',
    promises: [4],
  },
  {
    breaks: 'the silent are never removed',
    file: SQL,
    find: 'greatest(m.heartbeat_at, swept.resumed_at) + m.ttl <= moment)',
    replace: 'false)',
    promises: [6],
  },
  {
    breaks: 'the dead have to wait for their ttl',
    file: SQL,
    find: "coalesce(m.session_role || ' ' || m.session = any (missing) and",
    replace: 'coalesce(false and',
    promises: [6],
  },
  {
    breaks: 'silence before sweeping resumed counts',
    file: SQL,
    find: 'greatest(m.heartbeat_at, swept.resumed_at) + m.ttl <= moment)',
    replace: 'm.heartbeat_at + m.ttl <= moment)',
    promises: [7],
  },
  {
    breaks: 'a heartbeat waits for locks',
    file: SQL,
    find: 'for no key update of mine skip locked',
    replace: 'for no key update of mine',
    promises: [7],
  },
  {
    breaks: 'there is no grace',
    file: SQL,
    find: 'm.suspected_at + m.crash_grace <= moment',
    replace: 'm.suspected_at <= moment + m.crash_grace',
    promises: [7],
  },
  {
    breaks: 'a lease outlives the ttl',
    file: 'src/engine/membership/timed-lease.ts',
    find: 'return startedMs + ttlMs * 0.95',
    replace: 'return startedMs + ttlMs * 2',
    promises: [8],
  },
  {
    breaks: 'who is lost stays out',
    file: 'src/engine/membership/own-membership.ts',
    find: `if (this.#onLost === 'stay-out') this.#stayOut(error)`,
    replace: 'if (error.code.length > 0) this.#stayOut(error)',
    promises: [8],
  },
  {
    breaks: 'who is to stay out comes back',
    file: 'src/engine/membership/own-membership.ts',
    find: `if (this.#onLost === 'stay-out') this.#stayOut(error)`,
    replace: `if (this.#onLost === 'stay-out' && error.code.length === 0) this.#stayOut(error)`,
    promises: [8],
  },
  {
    breaks: 'an aborted call forgets what it has left',
    file: 'src/engine/membership/own-membership.ts',
    find: `if (options.signal?.aborted === true) await this.#undo()`,
    replace: 'if (options.signal?.aborted === undefined) await this.#undo()',
    promises: [8],
  },
  {
    breaks: 'a closed cluster keeps its listener',
    file: 'src/postgres/connection/shared-connections.ts',
    find: '      this.listener?.close(deadlineMs),\n',
    replace: '',
    promises: [11, 12],
  },
  {
    breaks: 'nobody listens for the errors of the listener',
    file: 'src/postgres/connection/listener.ts',
    find: `subscriber.events.on('error', (cause: Error) =>
      this.#broken(ear, ear.trouble ?? new Error('The connection was lost', { cause })),
    )`,
    replace: 'void this.#broken',
    promises: [12],
  },
  {
    breaks: 'a role is not granted what it needs',
    file: 'migrations/grants/reader.sql',
    find: `grant execute on function :"schema".sweep_overdue(text) to :"role";\n`,
    replace: '',
    promises: [1, 2, 11, 12],
  },
  {
    breaks: 'what was typed into a member stays',
    file: 'src/engine/membership/own-membership.ts',
    find: `found === 'superseded' || found === 'changed'`,
    replace: `found === 'superseded'`,
    promises: [1],
  },
  {
    breaks: 'large data is cut',
    file: 'src/postgres/rows.ts',
    find: `Buffer.from(data, 'base64').toString()`,
    replace: `Buffer.from(data, 'base64').toString().slice(0, 250_000)`,
    promises: [1, 2, 3],
  },
  {
    breaks: 'a late deregister takes away what came since',
    file: SQL,
    find: 'l.id = leaver.id and l.token = leaver.token',
    replace: 'l.id = leaver.id',
    promises: [7, 8],
  },
  {
    breaks: 'a fence does not hold the registration',
    file: SQL,
    find: '+ m.ttl > clock_timestamp()\n  )\n  for key share;\n',
    replace: '+ m.ttl > clock_timestamp()\n  );\n',
    promises: [13, 16],
  },
]

/** The text of its file as it would be. */
export function mutated({ breaks, file, find, replace }: Mutation, text: string): string {
  const [before, after, ...more] = text.split(find)
  if (before === undefined || after === undefined || more.length > 0) {
    throw new Error(`'${breaks}': in ${file} this does not stand once: ${find}`)
  }
  return before + replace + after
}
