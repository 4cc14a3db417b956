/** A cluster on any store: wires the parts, and closes them in order. */
import type { Change } from '../api/change.js'
import type { Cluster } from '../api/cluster.js'
import type { Cursor } from '../api/cursor.js'
import { ClosedError, type MembershipError } from '../api/errors.js'
import type { Logger } from '../api/logger.js'
import type { Member } from '../api/member.js'
import type { Membership, MembershipOptions } from '../api/membership.js'
import type { Snapshot } from '../api/snapshot.js'
import type { Status } from '../api/status.js'
import type { WaitOptions } from '../api/wait-options.js'
import { monotonicMs } from '../kit/clock.js'
import { type ClaimsPort, type NoncesPort, providePorts } from '../kit/ports.js'
import { within } from '../kit/waiting.js'
import { positionAt } from './cursor.js'
import { Feeds } from './feed.js'
import { storableData } from './membership/data.js'
import { fence } from './membership/fence-client.js'
import { ClusterMembership } from './membership/membership.js'
import { Registrations } from './membership/registrations.js'
import type { News } from './news.js'
import { checkOptions, checkWaitOptions, onLostOption, refuse, type Timing } from './options.js'
import { CachedReader } from './reader.js'
import { Report } from './report.js'
import { ClusterStatus } from './status.js'
import type { Delta, Store } from './store.js'
import { Sweeper } from './sweeper.js'

/** By these the owner of a store, such as PostgresCluster, tells the cluster what happens. */
export interface Callbacks {
  /** Something may have changed. */
  readonly hint: () => void
  /** These changes happened. */
  readonly take: (delta: Delta) => void
  /** Whether announcements or hints arrive from now on. */
  readonly hearing: (hearing: boolean) => void
  /** Ends the leases, as if no heartbeat had got through. */
  readonly distrust: () => void
  /** The connection was lost, or is back: try everything now. */
  readonly recover: () => void
  /** The database is reached again: try now what failed. */
  readonly retry: () => void
  /** The longest wait between two attempts to connect. */
  readonly patienceMs: () => number
  /** Where to tell what happens in the background. */
  readonly report: Report
}

export interface CoreOptions {
  readonly name: string
  readonly store: Store
  readonly claims: ClaimsPort
  readonly nonces: NoncesPort
  readonly timing: Timing
  readonly logger: Logger | undefined
  /** Called at the first use. It must call `hearing` at some time. Returns a function that stops the callbacks. */
  readonly start: (callbacks: Callbacks) => () => void
  /** A refresh found a change that was neither announced nor hinted at. */
  readonly onSurprise: () => void
  /** Called when the cluster closes and needs the store no more. */
  readonly detach: (deadlineMs: number) => Promise<void>
}

export class ClusterCore implements Cluster {
  readonly name: string
  readonly #options: CoreOptions
  readonly #reader: CachedReader
  readonly #feeds: Feeds
  readonly #registrations: Registrations
  readonly #sweeper: Sweeper
  #stop: (() => void) | undefined
  readonly #report: Report
  readonly #status: ClusterStatus
  #closed = false
  #closing: Promise<void> | undefined

  constructor(options: CoreOptions) {
    const { store, claims, nonces, timing, onSurprise } = options
    this.name = options.name
    this.#options = options
    const report = (this.#report = new Report(this, options.logger))
    const onAnswer = (answered: boolean): void => this.#status.note({ answering: answered })
    this.#status = new ClusterStatus(report)
    this.#reader = new CachedReader({
      store,
      pollMs: timing.pollMs,
      report,
      onAnswer,
      onSurprise,
      onSweepOverdue: () => this.#sweeper.sweepNow(),
      onSnapshot: (news) => this.#changed(news),
      onRefused: (error) => this.#refused(error),
      onUse: () => this.#start(),
    })
    this.#feeds = new Feeds({ store, report, onWait: () => this.#reader.load() })
    this.#registrations = new Registrations({
      store,
      reader: this.#reader,
      timing,
      report,
      onAnswer,
      onSweepOverdue: () => this.#sweeper.sweepNow(),
      onUse: () => this.#start(),
    })
    this.#sweeper = new Sweeper({ store, report, hasOthers: () => this.#othersAreMembers() })
    providePorts(this, {
      fence: (client, registration) => fence(client, () => store.fence(client, registration)),
      claims,
      nonces,
    })
  }

  get snapshot(): Snapshot | undefined {
    return this.#reader.snapshot
  }

  get status(): Status {
    return this.#status.at(this.#reader)
  }

  createMembership(options: MembershipOptions = {}): Membership {
    checkOptions('createMembership', options, ['data', 'onLost'])
    if (this.#closed) throw new ClosedError('The cluster is closed')
    const { data = '', onLost } = options
    const own = this.#registrations.create({ data: storableData(data), onLost: onLostOption(onLost) })
    return new ClusterMembership(own)
  }

  async getMembers(options: WaitOptions & { readonly fresh?: boolean } = {}): Promise<readonly Member[]> {
    checkWaitOptions(options)
    const fresh: unknown = options.fresh
    if (fresh !== undefined && typeof fresh !== 'boolean') refuse('fresh', fresh, 'be true or false')
    return await this.#reader.getMembers(options)
  }

  watchMembers(options: WaitOptions = {}): AsyncIterableIterator<readonly Member[]> {
    checkWaitOptions(options)
    return this.#reader.watchMembers(options)
  }

  watchChanges(options: WaitOptions & { readonly since?: Cursor } = {}): AsyncIterableIterator<Change> {
    checkOptions('watchChanges', options, ['signal', 'since'])
    checkWaitOptions(options)
    return this.#feeds.watch(options, options.since === undefined ? undefined : positionAt(options.since))
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  /** `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    const endMs = monotonicMs() + this.#options.timing.closeTimeoutMs
    const leftMs = (): number => Math.max(0, endMs - monotonicMs())
    this.#closed = true
    this.#status.note({ closed: true })
    this.#stop?.()
    const swept = this.#sweeper.stop()
    await this.#registrations.close(leftMs())
    const read = this.#reader.close()
    const fed = this.#feeds.end()
    await this.#options.detach(leftMs())
    // If other clusters share the connections, work under way may still wait for its turn on them.
    await within(leftMs(), Promise.all([swept, read, fed]), 'closing').catch(() => undefined)
  }

  #start(): void {
    if (this.#stop !== undefined || this.#closed) return
    this.#stop = this.#options.start({
      hint: () => this.#reader.hint(),
      take: (delta) => this.#reader.take(delta),
      hearing: (hearing) => {
        this.#status.note({ hearing })
        this.#reader.missed()
      },
      distrust: () => this.#registrations.distrust(),
      recover: () => {
        this.#registrations.recover()
        this.#reader.recover()
        this.#feeds.retry()
      },
      retry: () => {
        this.#registrations.retry()
        this.#reader.retry()
        this.#feeds.retry()
        this.#sweeper.retry()
      },
      patienceMs: () => this.#registrations.patienceMs,
      report: this.#report,
    })
  }

  #changed(news: News): void {
    this.#status.note({ loaded: true })
    const { position } = this.#reader
    if (position !== undefined) this.#feeds.moved(position, news.otherHistory)
    this.#registrations.reconcile(news)
    this.#sweeper.takeTurns()
  }

  #refused(error: MembershipError): void {
    this.#registrations.refused(error)
    // What is not followed wakes nobody.
    if (this.snapshot === undefined) this.#feeds.fail(error)
  }

  #othersAreMembers(): boolean {
    return this.snapshot?.members.some((member) => !this.#registrations.has(member)) ?? false
  }
}
