/** What `fence` needs of a client: pg's Client and PoolClient have it. */
export interface QueryClient {
  /** Runs one statement with parameters, on the connection that holds the transaction. */
  query(text: string, values: unknown[]): Promise<unknown>
}
