/**
 * A point in the history of one cluster. Opaque: it survives JSON and restarts, and means nothing in another
 * cluster. Snapshots and changes carry one, and `watchChanges({ since })` goes on from it.
 */
export type Cursor = string
