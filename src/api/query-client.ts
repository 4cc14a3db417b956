/** The part of a client that `fence` uses. Client and PoolClient of pg have it. */
export interface QueryClient {
  /** Runs one statement with parameters, on the connection that runs the transaction. */
  query(text: string, values: unknown[]): Promise<unknown>
}
