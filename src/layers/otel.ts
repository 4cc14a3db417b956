/**
 * Metrics of a cluster, through `@opentelemetry/api`, an optional peer dependency. docs/guides/metrics.md lists the
 * instruments: their names, units and attributes are stable.
 *
 * @module pg-membership/otel
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { type BatchObservableResult, type Meter, metrics } from '@opentelemetry/api'
import type { Cluster } from '../api/cluster.js'
import type { DiagnosticsMessages } from '../api/diagnostics.js'

const MODES = ['connecting', 'listening', 'polling', 'disconnected', 'closed']
const ACTIVITIES = ['deregister', 'feed', 'heartbeat', 'listen', 'refresh', 'sweep', 'write']
const LOSS_REASONS = ['unreachable', 'expired', 'crashed', 'removed', 'superseded']
const DELTA_SOURCES = ['announcement', 'answer', 'refresh']
const CHANGE_KINDS = ['joined', 'updated', 'left']

/** In seconds: a heartbeat takes about a millisecond, and is given up after some seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

/**
 * Observes a cluster until the returned function is called. It asks the database nothing, and does not keep the
 * process alive. Call it before `register`: leases from before are counted from the next heartbeat on.
 *
 * Each measurement has the attributes `pg_membership.cluster`, the cluster's name, and `pg_membership.instance`: 1,
 * or a higher number where a process observes several clusters of one name.
 *
 * `meter`: default `metrics.getMeter('pg-membership')`; set the global MeterProvider before. What a meter throws
 * while instruments are made is thrown here. What it throws later reaches nobody.
 */
export function observe(cluster: Cluster, options: { readonly meter?: Meter } = {}): () => void {
  const meter = options.meter ?? metrics.getMeter('pg-membership')
  const numbers = numbersOf(meter, cluster.name)
  const instance = firstFree(numbers)
  const own = { 'pg_membership.cluster': cluster.name, 'pg_membership.instance': instance }

  const counter = (name: string, unit: string, attribute = '', values: readonly string[] = []) => {
    const made = meter.createCounter(`pg_membership.${name}`, { unit })
    const add = (count: number, value?: string): void =>
      made.add(count, value === undefined ? own : { ...own, [`pg_membership.${attribute}`]: value })
    // Without a series that begins with 0, the first loss would not show as an increase.
    for (const value of values) quietly(() => add(0, value))
    if (values.length === 0) quietly(() => add(0))
    return add
  }
  const duration = (name: string) => {
    const advice = { explicitBucketBoundaries: BUCKETS }
    return meter.createHistogram(`pg_membership.${name}`, { unit: 's', advice })
  }
  const [heartbeats, refreshes] = [duration('heartbeat.duration'), duration('refresh.duration')]
  const failures = counter('failures', '{failure}', 'activity', ACTIVITIES)
  const losses = counter('leases.lost', '{lease}', 'loss.reason', LOSS_REASONS)
  const deltas = counter('deltas', '{delta}', 'delta.source', DELTA_SOURCES)
  const changes = counter('changes', '{change}', 'change.kind', CHANGE_KINDS)
  const sweeps = counter('sweeps', '{sweep}')
  const removals = counter('removals', '{member}')
  const registrations = meter.createObservableUpDownCounter('pg_membership.registrations', {
    unit: '{registration}',
  })
  const members = meter.createObservableGauge('pg_membership.members', { unit: '{member}' })
  const revision = meter.createObservableGauge('pg_membership.revision')
  const age = meter.createObservableGauge('pg_membership.cache.age', { unit: 's' })
  const mode = meter.createObservableGauge('pg_membership.mode')
  const looked = [registrations, members, revision, age, mode]

  let leases = 0
  const look = (result: BatchObservableResult): void => {
    const { snapshot, status } = cluster
    result.observe(registrations, leases, own)
    if (snapshot !== undefined) result.observe(members, snapshot.members.length, own)
    if (snapshot !== undefined) result.observe(revision, snapshot.revision, own)
    if (status.ageMs !== undefined) result.observe(age, status.ageMs / 1_000, own)
    for (const each of MODES)
      result.observe(mode, each === status.mode ? 1 : 0, { ...own, 'pg_membership.mode': each })
  }
  meter.addBatchObservableCallback(look, looked)
  numbers.add(instance)

  const stops = [
    () => meter.removeBatchObservableCallback(look, looked),
    () => void numbers.delete(instance),
    hear(cluster, 'pg-membership:heartbeat', (message) => {
      leases = message.leases
      heartbeats.record(message.durationMs / 1_000, own)
    }),
    hear(cluster, 'pg-membership:lease', (message) => {
      leases = message.leases
      if (message.error?.code === 'LOST') losses(1, message.error.reason)
    }),
    hear(cluster, 'pg-membership:refresh', ({ durationMs, kind }) =>
      refreshes.record(durationMs / 1_000, { ...own, 'pg_membership.refresh.kind': kind }),
    ),
    hear(cluster, 'pg-membership:delta', ({ source, joined, updated, left }) => {
      deltas(1, source)
      changes(joined, 'joined')
      changes(updated, 'updated')
      changes(left, 'left')
    }),
    hear(cluster, 'pg-membership:sweep', ({ removed }) => {
      sweeps(1)
      removals(removed)
    }),
    hear(cluster, 'pg-membership:error', ({ doing }) => failures(1, doing)),
  ]
  return () => {
    for (const stop of stops.splice(0)) quietly(stop)
  }
}

/** Hears what this cluster publishes, until the returned function is called. */
function hear<C extends keyof DiagnosticsMessages>(
  cluster: Cluster,
  channel: C,
  note: (message: DiagnosticsMessages[C]) => void,
): () => void {
  // What a subscriber throws would be an uncaught exception.
  const listener = (message: unknown): void =>
    quietly(() => {
      const told = message as DiagnosticsMessages[C]
      if (told.publisher === cluster) note(told)
    })
  subscribe(channel, listener)
  return () => void unsubscribe(channel, listener)
}

function quietly(work: () => void): void {
  try {
    work()
  } catch {
    // The trouble of a meter is not the library's.
  }
}

/** The numbers in use, by meter and name of a cluster. */
const inUse = new WeakMap<Meter, Map<string, Set<number>>>()

function numbersOf(meter: Meter, name: string): Set<number> {
  const names = inUse.get(meter) ?? new Map<string, Set<number>>()
  const numbers = names.get(name) ?? new Set()
  inUse.set(meter, names.set(name, numbers))
  return numbers
}

function firstFree(numbers: ReadonlySet<number>): number {
  let number = 1
  while (numbers.has(number)) number += 1
  return number
}
