/** The story, step by step. Each step waits until what it says has happened, and tells how long that took. */
import type { Actor } from './actor.js'
import { changesSql, reasonSql, staysSql } from './audit.js'
import type { Database } from './database.js'
import { dataOf } from './messages.js'
import { whyLeft, whyLost } from './reasons.js'
import { done, duration, heading, paint, say, showRows, showViews } from './screen.js'
import type { Stage } from './stage.js'

export async function tell(stage: Stage, database: Database): Promise<void> {
  const [ada, ben, cleo, dora, eve] = ['ada', 'ben', 'cleo', 'dora', 'eve'].map((name) => stage.start(name))
  if (!ada || !ben || !cleo || !dora || !eve) return
  await stage.until('all processes watch', () => stage.everyone(({ members }) => members))

  heading('1. Four processes register; one only watches')
  for (const actor of [ada, ben, cleo, dora]) await register(actor)
  showViews(stage.actors)
  say('eve sees everyone and is seen by no one: reading needs no membership.')

  await step('2. eve joins')
  const joined = await register(eve)
  showViews(stage.actors)
  done(`in every snapshot after ${duration(joined)}`)

  await step('3. ben changes his data')
  ben.tell({ kind: 'set state', state: 'busy' })
  const changed = await stage.until('all see it', () =>
    stage.everyone((viewer) => stateOf(ben, viewer) === 'busy'),
  )
  showViews(stage.actors)
  done(`in every snapshot after ${duration(changed)}`)

  await step('4. cleo leaves politely (SIGTERM)')
  cleo.leave()
  const left = await gone(cleo)
  await stage.until('cleo exits', () => cleo.hasExited)
  showViews(stage.actors)
  done(`gone from every snapshot after ${duration(left)}; her process ended with code 0`)

  await step('5. ada, the leader, is killed (SIGKILL)')
  ada.kill()
  await stage.until('ada is dead', () => ada.hasExited)
  showViews(stage.actors)
  say('She could not say goodbye: the others still list her …')
  say()
  const buried = await gone(ada)
  showViews(stage.actors)
  done(`gone from every snapshot after ${duration(buried)}: ${await reasonFor(ada)}`)
  done('ben is the oldest now, and everybody agrees that he leads')

  await step('6. ben, the new leader, is frozen (SIGSTOP)')
  const before = tokenOf(ben, dora)
  ben.freeze()
  say('His process exists and his connections are open, but no heartbeat comes …')
  say()
  const expired = await gone(ben)
  showViews(stage.actors)
  done(`gone from the other snapshots after ${duration(expired)}: ${await reasonFor(ben)}`)
  say('His own line is out of date: he would wake up as a leader. That is what leases are for.')

  await step('7. ben is resumed (SIGCONT)')
  const resumed = performance.now()
  ben.resume()
  await stage.until('ben learns that he was lost', () => ben.loss)
  const learned = performance.now() - resumed
  await stage.until('all see ben again', () => stage.everyone((viewer) => tokenOf(ben, viewer) > before))
  const back = performance.now() - resumed
  showViews(stage.actors)
  done(
    `after ${duration(learned)} his lease ended: ${ben.loss?.error ?? ''} ${whyLost(ben.loss?.reason ?? '')}`,
  )
  done(
    `after ${duration(back)} all see him again: the same id, token #${before} became #${tokenOf(ben, dora)}`,
  )
  say('He is the youngest now, so dora leads. Nobody had to vote.')

  await step('8. The same story, in plain SQL')
  for (const sql of [staysSql, changesSql]) {
    for (const line of sql.trim().split('\n')) say(paint('cyan', line))
    say()
    showRows(await database.query(sql))
  }

  const rest = stage.running
  for (const actor of rest) actor.leave()
  await stage.until('the others have left', () => rest.every(({ hasExited }) => hasExited))

  async function step(title: string): Promise<void> {
    await stage.pause()
    heading(title)
  }

  /** Resolves once all see it, with how long that took. */
  async function register(actor: Actor): Promise<number> {
    actor.tell({ kind: 'register' })
    return stage.until(`all see ${actor.name}`, () => stage.everyone((viewer) => viewer.sees(actor)))
  }

  async function gone(actor: Actor): Promise<number> {
    return stage.until(`${actor.name} is gone`, () => stage.everyone((viewer) => !viewer.sees(actor)))
  }

  async function reasonFor(actor: Actor): Promise<string> {
    const [left] = await database.query<{ reason: string }>(reasonSql, [actor.id])
    return whyLeft(left?.reason ?? 'unknown')
  }
}

function stateOf(actor: Actor, viewer: Actor): string | undefined {
  const member = viewer.sees(actor)
  return member && dataOf(member).state
}

function tokenOf(actor: Actor, viewer: Actor): number {
  return viewer.sees(actor)?.token ?? 0
}
