/**
 * What `import … from 'pg-membership'` gives: a cluster in PostgreSQL, its migrations, and the errors.
 *
 * Times are in milliseconds where a name ends in `Ms`, and ISO 8601 in UTC where they are strings.
 *
 * @module pg-membership
 */
export type { Change } from './api/change.js'
export type { Cluster } from './api/cluster.js'
export type { Cursor } from './api/cursor.js'
export type {
  Activity,
  DeltaMessage,
  DiagnosticsMessages,
  ErrorMessage,
  EvictionMessage,
  HeartbeatMessage,
  LeaseMessage,
  RefreshMessage,
  SnapshotMessage,
  StatusMessage,
  SweepMessage,
} from './api/diagnostics.js'
export {
  AbortedError,
  ClosedError,
  CompactedError,
  ConnectionError,
  DeregisteredError,
  MembershipError,
  MembershipLostError,
  OptionError,
  SchemaError,
} from './api/errors.js'
export type { Lease } from './api/lease.js'
export type { Logger } from './api/logger.js'
export type { Member } from './api/member.js'
export type { Membership, MembershipOptions } from './api/membership.js'
export type { QueryClient } from './api/query-client.js'
export type { Reader } from './api/reader.js'
export type { Registration } from './api/registration.js'
export type { Snapshot } from './api/snapshot.js'
export type { Status } from './api/status.js'
export type { WaitOptions } from './api/wait-options.js'
export { diffMembers } from './engine/diff.js'
export { PostgresCluster, type PostgresClusterOptions } from './postgres/cluster.js'
export type { Connection, ConnectionConfig, Connections } from './postgres/options.js'
export { migrate, type MigrateOptions } from './postgres/schema/migrate.js'
export { migrationSql } from './postgres/schema/print.js'
