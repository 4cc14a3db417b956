/** What `fence` needs of a client: pg's Client and PoolClient have it. */
export interface QueryClient {
  query(text: string, values: unknown[]): Promise<unknown>
}
