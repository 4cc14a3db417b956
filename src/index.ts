/**
 * What `import … from 'pg-membership'` gives: a cluster in PostgreSQL, its migrations, and the errors.
 *
 * Times are in milliseconds where a name ends in `Ms`, and ISO 8601 in UTC where they are strings.
 *
 * @module pg-membership
 */
export type { Member } from './member.js'
export type { Snapshot } from './snapshot.js'
export type { WaitOptions } from './waiting.js'
export type { Lease } from './lease.js'
export type { Cluster, Membership, MembershipOptions, Reader, Status } from './cluster.js'
export type { QueryClient } from './query-client.js'
export type { Connection, ConnectionConfig, Connections } from './options.js'
export type { Logger } from './report.js'
export { PostgresCluster, type PostgresClusterOptions } from './postgres-cluster.js'
export { migrate, migrationSql, type MigrateOptions } from './migrate.js'
export {
  AbortedError,
  ClosedError,
  ConnectionError,
  DeregisteredError,
  MembershipError,
  MembershipLostError,
  OptionError,
  SchemaError,
} from './errors.js'
