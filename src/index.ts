export type { Member } from './api/member.js'
export type { Snapshot } from './engine/snapshot.js'
export type { WaitOptions } from './kit/waiting.js'
export type { Lease } from './engine/membership/timed-lease.js'
export type { Cluster, Membership, MembershipOptions, Reader, Status } from './api/cluster.js'
export type { QueryClient } from './api/query-client.js'
export type { Connection, ConnectionConfig, Connections } from './engine/options.js'
export type { Logger } from './engine/report.js'
export { PostgresCluster, type PostgresClusterOptions } from './postgres/cluster.js'
export { migrate, migrationSql, type MigrateOptions } from './postgres/schema/migrate.js'
export {
  AbortedError,
  ClosedError,
  ConnectionError,
  DeregisteredError,
  MembershipError,
  MembershipLostError,
  OptionError,
  SchemaError,
} from './api/errors.js'
