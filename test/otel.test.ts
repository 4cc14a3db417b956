/** pg-membership/otel, with OpenTelemetry's own SDK; and that the guide, the dashboard and the alerts name what there is. */
import diagnostics from 'node:diagnostics_channel'
import { type Meter, metrics as globalMetrics } from '@opentelemetry/api'
import { PrometheusSerializer } from '@opentelemetry/exporter-prometheus'
import {
  AggregationTemporality,
  type DataPoint,
  DataPointType,
  type Histogram,
  InMemoryMetricExporter,
  MeterProvider,
  type MetricData,
  PeriodicExportingMetricReader,
  type ResourceMetrics,
} from '@opentelemetry/sdk-metrics'
import type { Cluster } from 'pg-membership'
import { MemoryCluster, MemoryWorld } from 'pg-membership/memory'
import { observe } from 'pg-membership/otel'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { parse } from 'yaml'
import { freshSchema, uniqueName } from './support/database.js'
import { textOf } from './support/documents.js'
import { joined, openAdmin, openCluster, openProxy } from './support/opened.js'
import { until } from './support/until.js'

let schema = ''
beforeAll(async () => {
  schema = await freshSchema()
})

class Measured {
  readonly resource: ResourceMetrics
  readonly metrics: readonly MetricData[]

  constructor(resource: ResourceMetrics) {
    this.resource = resource
    this.metrics = resource.scopeMetrics.flatMap((scope) => scope.metrics)
  }

  /** The values of the points that have these attributes, names without their prefix. */
  values(name: string, attributes: Record<string, string | number> = {}): number[] {
    const found = this.metrics.find(({ descriptor }) => descriptor.name === `pg_membership.${name}`)
    const points = (found?.dataPoints ?? []) as DataPoint<number | Histogram>[]
    return points
      .filter((point) =>
        Object.entries(attributes).every(
          ([key, value]) => point.attributes[`pg_membership.${key}`] === value,
        ),
      )
      .map(({ value }) => (typeof value === 'number' ? value : value.count))
  }

  value(name: string, attributes: Record<string, string | number> = {}): number {
    return this.values(name, attributes).reduce((sum, value) => sum + value, 0)
  }
}

function openMeter(temporality = AggregationTemporality.CUMULATIVE): {
  readonly meter: Meter
  readonly collect: () => Promise<Measured>
} {
  const exporter = new InMemoryMetricExporter(temporality)
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })
  const provider = new MeterProvider({ readers: [reader] })
  onTestFinished(() => provider.shutdown())
  const collect = async (): Promise<Measured> => {
    exporter.reset()
    await reader.forceFlush()
    const [resource] = exporter.getMetrics()
    return new Measured(resource ?? { resource: provider as never, scopeMetrics: [] })
  }
  return { meter: provider.getMeter('test'), collect }
}

function observed(cluster: Cluster, meter: Meter): () => void {
  const stop = observe(cluster, { meter })
  onTestFinished(stop)
  return stop
}

test('contract: a cluster in PostgreSQL is measured: members, registrations, heartbeats, refreshes, changes', async () => {
  const { meter, collect } = openMeter()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, ttlMs: 10_000, heartbeatMs: 100 })
  observed(cluster, meter)
  expect((await collect()).value('mode', { mode: 'connecting' })).toBe(1)
  const membership = await joined(cluster)
  await joined(openCluster({ schema, name }))
  await membership.setData('x')
  const measured = await until(
    async () => {
      const now = await collect()
      const ready = now.value('heartbeat.duration') > 0 && now.value('mode', { mode: 'listening' }) === 1
      return ready && now.value('sweeps') > 0 && now.value('members') === 2 ? now : undefined
    },
    { message: 'it beats, listens, sweeps and sees both' },
  )
  expect(measured.values('registrations', { cluster: name, instance: 1 })).toEqual([1])
  expect(measured.value('revision')).toBe(cluster.snapshot?.revision)
  expect(measured.value('mode')).toBe(1)
  expect(measured.value('refresh.duration', { 'refresh.kind': 'all' })).toBe(1)
  expect(measured.value('changes', { 'change.kind': 'updated' })).toBe(1)
  expect(measured.value('deltas')).toBeGreaterThanOrEqual(2)
  expect(measured.value('cache.age')).toBeGreaterThan(0)
  expect(measured.value('cache.age')).toBeLessThan(10)
  expect(measured.values('leases.lost')).toEqual([0, 0, 0, 0, 0])
  expect(measured.value('removals')).toBe(0)
  await cluster.close()
  const after = await collect()
  expect(after.value('mode', { mode: 'closed' })).toBe(1)
  expect(after.value('registrations')).toBe(0)
  expect(after.value('leases.lost')).toBe(0)
})

test('contract: failures, and leases lost in an outage or by removal, are counted by what and why', async () => {
  const { meter, collect } = openMeter()
  const name = uniqueName()
  const proxy = await openProxy()
  const times = { ttlMs: 1_000, heartbeatMs: 100 }
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, ...times })
  observed(cluster, meter)
  const { id } = await joined(cluster)
  const admin = await openAdmin()
  await admin.query(`delete from ${schema}.members where id = $1`, [id])
  const lost = (reason: string) => async () =>
    (await collect()).value('leases.lost', { 'loss.reason': reason })
  await until(lost('removed'), { message: 'its loss is counted' })
  await until(async () => (await collect()).value('registrations') === 1, { message: 'it comes back' })
  await proxy.cut()
  await until(lost('unreachable'), { message: 'the end of its lease is counted' })
  const measured = await collect()
  expect(measured.value('failures', { activity: 'heartbeat' })).toBeGreaterThan(0)
  expect(measured.value('mode', { mode: 'disconnected' })).toBe(1)
  expect(measured.value('registrations')).toBe(0)
})

test('contract: a cluster in memory is measured too', async () => {
  const { meter, collect } = openMeter()
  const world = new MemoryWorld()
  const cluster = new MemoryCluster({ name: 'm', world })
  observed(cluster, meter)
  const membership = cluster.createMembership({ onLost: 'stay-out' })
  await membership.register()
  const before = await collect()
  expect([before.value('members'), before.value('registrations')]).toEqual([1, 1])
  expect(before.value('mode', { mode: 'listening' })).toBe(1)
  world.remove(membership.id, 'crashed')
  await until(() => membership.lease === undefined, { message: 'it knows' })
  const after = await collect()
  expect([after.value('members'), after.value('registrations')]).toEqual([0, 0])
  expect(after.value('leases.lost', { 'loss.reason': 'crashed' })).toBe(1)
  expect(after.value('changes', { 'change.kind': 'left' })).toBe(1)
  await cluster.close()
})

test('contract: clusters of one name, and several observations of one cluster, do not mix', async () => {
  // With cumulative temporality the SDK repeats the last values of what is not observed any more.
  const { meter, collect } = openMeter(AggregationTemporality.DELTA)
  const [one, two] = [new MemoryCluster({ name: 'same' }), new MemoryCluster({ name: 'same' })]
  const stopOne = observed(one, meter)
  observed(two, meter)
  const stopAgain = observed(two, meter)
  await one.createMembership().register()
  await two.createMembership().register()
  await two.createMembership().register()
  const seen = async (...names: string[]): Promise<number[][]> => {
    const measured = await collect()
    const valuesOf = (instance: number): number[] =>
      names.flatMap((name) => measured.values(name, { cluster: 'same', instance }))
    return [1, 2, 3].map(valuesOf)
  }
  expect(await seen('members', 'registrations')).toEqual([
    [1, 1],
    [2, 2],
    [2, 2],
  ])
  stopAgain()
  stopOne()
  stopOne()
  await one.createMembership().register()
  await two.createMembership().register()
  expect(await seen('members')).toEqual([[], [3], []])
  observed(two, meter)
  await two.createMembership().register()
  expect(await seen('members')).toEqual([[4], [4], []])
  await Promise.all([one.close(), two.close()])
})

test('contract: without an SDK nothing is measured, and after the end nobody subscribes', async () => {
  const cluster = new MemoryCluster({ name: 'quiet' })
  const stop = observe(cluster)
  expect(diagnostics.hasSubscribers('pg-membership:lease')).toBe(true)
  await cluster.createMembership().register()
  stop()
  const channels = ['heartbeat', 'lease', 'refresh', 'delta', 'sweep', 'error']
  expect(channels.filter((name) => diagnostics.hasSubscribers(`pg-membership:${name}`))).toEqual([])
  await cluster.close()
})

test('contract: what a meter throws does not reach the library, nor does a message of somebody else', async () => {
  const broken = (): never => {
    throw new Error('the meter is broken')
  }
  const noop = globalMetrics.getMeter('noop')
  const instrument = { add: broken, record: broken }
  const meter = Object.assign(Object.create(noop) as Meter, {
    createCounter: () => instrument,
    createHistogram: () => instrument,
    removeBatchObservableCallback: broken,
  })
  const cluster = new MemoryCluster({ name: 'broken' })
  const stop = observed(cluster, meter)
  for (const message of [null, undefined, 'text', { publisher: cluster }])
    diagnostics.channel('pg-membership:lease').publish(message)
  await cluster.createMembership().register()
  await cluster.close()
  stop()
  expect(diagnostics.hasSubscribers('pg-membership:lease')).toBe(false)
})

describe('contract: the guide lists what is measured', () => {
  const rows = textOf('docs/guides/metrics.md')
    .split('\n')
    .flatMap((line) => {
      const [, metric = '', kind = '', attribute = ''] = line.split('|').map((cell) => cell.trim())
      const [, name] = /^`(pg_membership\.[a-z._]+)`$/.exec(metric) ?? []
      const [, unit = ''] = /`(.+)`/.exec(kind) ?? []
      const [key = '', ...values] = [...attribute.replaceAll(/\([^)]*\)/g, '').matchAll(/`([^`]+)`/g)].map(
        ([, code = '']) => code,
      )
      return name === undefined ? [] : [{ name, kind: kind.replace(/,.*/, ''), unit, key, values }]
    })
  const COMMON = ['pg_membership.cluster', 'pg_membership.instance']

  /** Every instrument has a point: a process that did everything. */
  async function everything(): Promise<Measured> {
    const { meter, collect } = openMeter()
    const name = uniqueName()
    const cluster = openCluster({ schema, name, ttlMs: 10_000, heartbeatMs: 100 })
    observed(cluster, meter)
    await joined(cluster)
    return await until(
      async () => {
        const measured = await collect()
        return measured.value('heartbeat.duration') > 0 ? measured : undefined
      },
      { message: 'a heartbeat is measured' },
    )
  }

  test('by name, kind, unit and attributes', async () => {
    const { metrics } = await everything()
    const kindOf = (metric: MetricData): string => {
      if (metric.dataPointType !== DataPointType.SUM)
        return metric.dataPointType === DataPointType.HISTOGRAM ? 'histogram' : 'gauge'
      return metric.isMonotonic ? 'counter' : 'up-down counter'
    }
    const made = metrics.map((metric) => ({
      name: metric.descriptor.name,
      kind: kindOf(metric),
      unit: metric.descriptor.unit,
    }))
    const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1)
    const documented = rows.map(({ name, kind, unit }) => ({ name, kind, unit }))
    expect(made.sort(byName)).toEqual(documented.sort(byName))
    for (const { name, key, values } of rows) {
      const points = (metrics.find(({ descriptor }) => descriptor.name === name)?.dataPoints ??
        []) as DataPoint<unknown>[]
      expect(points.length, name).toBeGreaterThan(0)
      for (const { attributes } of points) {
        expect(Object.keys(attributes).sort(), name).toEqual([...COMMON, ...(key === '' ? [] : [key])].sort())
        if (key !== '') expect(values, name).toContain(attributes[key])
      }
    }
  })

  test('and the dashboard and the alerts use these names, as the exporter writes them, and no others', async () => {
    const { resource } = await everything()
    const exported = new PrometheusSerializer().serialize(resource)
    const names = new Set([...exported.matchAll(/^(pg_membership_\w+)[{ ]/gm)].map(([, name]) => name))
    const labels = new Set([...exported.matchAll(/(pg_membership_\w+)="/g)].map(([, label]) => label))
    const dashboard = expressionsOf(JSON.parse(textOf('docs/grafana/dashboard.json')))
    const alerts = expressionsOf(parse(textOf('docs/grafana/alerts.yaml')))
    expect([dashboard.length, alerts.length].every((length) => length > 5)).toBe(true)
    const used = [...dashboard, ...alerts].flatMap((text) =>
      [...text.replaceAll('(_seconds)?', '').matchAll(/pg_membership_\w+/g)].map(([name]) => name),
    )
    expect(used.filter((name) => !names.has(name) && !labels.has(name))).toEqual([])
    const shown = dashboard.join().replaceAll('(_seconds)?', '')
    const unseen = rows.filter(({ name }) => !shown.includes(name.replaceAll('.', '_')))
    expect(unseen.map(({ name }) => name)).toEqual([])
  })

  test('and every alert', () => {
    const { groups } = parse(textOf('docs/grafana/alerts.yaml')) as {
      groups: { rules: { alert: string }[] }[]
    }
    const alerts = groups.flatMap(({ rules }) => rules.map(({ alert }) => alert))
    const told = [...textOf('docs/guides/metrics.md').matchAll(/^\| `(PgMembership\w+)`/gm)].map(
      ([, name]) => name,
    )
    expect(told).toEqual(alerts)
  })
})

/** What is asked of Prometheus, wherever it stands. */
function expressionsOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]) =>
    (key === 'expr' || key === 'query') && typeof inner === 'string' ? [inner] : expressionsOf(inner),
  )
}
