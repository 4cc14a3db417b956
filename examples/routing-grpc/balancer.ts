/**
 * Clients of gRPC that find their servers in a cluster: `new Keys('membership:///chat', …)`.
 *
 * The resolver tells grpc-js of the members of the cluster, again after each change. The load balancer keeps one
 * connection to each member, and picks: the owner of the key in the call's metadata, or anyone by weight.
 *
 * `experimental` is how grpc-js names this part of its interface: it may change in any version.
 */
import { connectivityState as State, experimental, Metadata, status } from '@grpc/grpc-js'
import { Router } from 'pg-membership/routing'
import type { TypedCluster, TypedMember } from 'pg-membership/typed'
import type { Place } from '../routing-http/places.js'

const SCHEME = 'membership'
/** The metadata that has the key of a call. */
export const KEY = 'x-key'
/** With this prefix, a change of it does not make new connections. */
const MEMBERS = `${experimental.SUBCHANNEL_ARGS_EXCLUDE_KEY_PREFIX}.members`

type Member = TypedMember<Place>
type Listener = experimental.ResolverListener
type Update = Parameters<experimental.LoadBalancer['updateAddressList']>

/** Call it once in a process. `open` says which cluster `membership:///NAME` is: its owner closes it. */
export function registerMembership(open: (name: string) => TypedCluster<Place>): void {
  class MembershipResolver implements experimental.Resolver {
    readonly #name: string
    readonly #listener: Listener
    #watching: AbortController | undefined

    constructor(target: experimental.GrpcUri, listener: Listener) {
      this.#name = target.path
      this.#listener = listener
    }

    static getDefaultAuthority(target: experimental.GrpcUri): string {
      return target.path
    }

    /** grpc-js asks again when a connection breaks. The watch tells of every change anyway. */
    updateResolution(): void {
      if (this.#watching !== undefined) return
      const watching = (this.#watching = new AbortController())
      this.#watch(watching.signal).catch((error: unknown) => {
        this.#watching = undefined
        const failure = { code: status.UNAVAILABLE, details: String(error), metadata: new Metadata() }
        if (!watching.signal.aborted) this.#listener(experimental.statusOrFromError(failure), {}, null, '')
      })
    }

    destroy(): void {
      this.#watching?.abort()
      this.#watching = undefined
    }

    async #watch(signal: AbortSignal): Promise<void> {
      for await (const members of open(this.#name).watchMembers({ signal })) {
        const endpoints = members.map((member) => ({ addresses: [addressOf(member)] }))
        const config = { loadBalancingConfig: [{ [SCHEME]: {} }], methodConfig: [] }
        this.#listener(
          experimental.statusOrFromValue(endpoints),
          { [MEMBERS]: members },
          experimental.statusOrFromValue(config),
          '',
        )
      }
    }
  }
  experimental.registerResolver(SCHEME, MembershipResolver)
  experimental.registerLoadBalancerType(SCHEME, MembershipBalancer, MembershipConfig)
}

class MembershipConfig implements experimental.TypedLoadBalancingConfig {
  getLoadBalancerName(): string {
    return SCHEME
  }

  toJsonObject(): object {
    return { [SCHEME]: {} }
  }

  static createFromJson(): MembershipConfig {
    return new MembershipConfig()
  }
}

interface Connection {
  readonly member: Member
  readonly leaf: experimental.LeafLoadBalancer
}

class MembershipBalancer implements experimental.LoadBalancer {
  readonly #channel: experimental.ChannelControlHelper
  readonly #children: experimental.ChannelControlHelper
  #connections = new Map<string, Connection>()
  #isUpdating = false

  constructor(channel: experimental.ChannelControlHelper) {
    this.#channel = channel
    this.#children = experimental.createChildChannelControlHelper(channel, {
      updateState: () => this.#tell(),
    })
  }

  updateAddressList(...[endpoints, , options, note]: Update): boolean {
    const members = options[MEMBERS] as readonly Member[] | undefined
    // Without the database, the members that were known last are as good as any.
    if (!endpoints.ok || members === undefined) {
      if (this.#connections.size === 0) this.#tell(endpoints.ok ? undefined : endpoints.error.details)
      return !endpoints.ok
    }
    const before = this.#connections
    this.#isUpdating = true
    this.#connections = new Map(
      members.map((member) => {
        const id = `${member.id} ${member.data.url}`
        const known = before.get(id)
        before.delete(id)
        if (known !== undefined) return [id, { member, leaf: known.leaf }]
        const endpoint = { addresses: [addressOf(member)] }
        const leaf = new experimental.LeafLoadBalancer(endpoint, this.#children, options, note)
        leaf.startConnecting()
        return [id, { member, leaf }]
      }),
    )
    this.#isUpdating = false
    this.#tell()
    // Calls that are under way end by themselves.
    for (const { leaf } of before.values()) leaf.destroy()
    return true
  }

  exitIdle(): void {
    for (const { leaf } of this.#connections.values()) leaf.exitIdle()
  }

  resetBackoff(): void {
    // Each connection has its own, and offers no way to it.
  }

  destroy(): void {
    for (const { leaf } of this.#connections.values()) leaf.destroy()
    this.#connections.clear()
  }

  getTypeName(): string {
    return SCHEME
  }

  /** After each change of a member or of a connection. Calls that wait are picked again. */
  #tell(details = 'The cluster has no members that take calls'): void {
    if (this.#isUpdating) return
    const all = [...this.#connections.values()]
    for (const { leaf } of all) if (leaf.getConnectivityState() === State.IDLE) leaf.exitIdle()
    const states = new Set(all.map(({ leaf }) => leaf.getConnectivityState()))
    const state = [State.READY, State.CONNECTING, State.IDLE].find((one) => states.has(one))
    if (state === undefined) {
      const picker = new experimental.UnavailablePicker({ details })
      this.#channel.updateState(State.TRANSIENT_FAILURE, picker, details)
    } else this.#channel.updateState(state, new OwnerPicker(all), null)
  }
}

/** Picks by one state of the members and their connections. */
class OwnerPicker implements experimental.Picker {
  readonly #leaves: ReadonlyMap<Member, experimental.LeafLoadBalancer>
  readonly #usable: Router<Member>
  readonly #ready: Router<Member>

  constructor(connections: readonly Connection[]) {
    this.#leaves = new Map(connections.map(({ member, leaf }) => [member, leaf]))
    const among = (fits: (state: State) => boolean): Router<Member> => {
      const members = connections.filter(({ leaf }) => fits(leaf.getConnectivityState()))
      const snapshot = { members: members.map(({ member }) => member) }
      return new Router({ snapshot }, { weight: ({ data }) => data.weight })
    }
    // A call with a key waits for its owner to be connected. Where that failed, the next owner takes it.
    this.#usable = among((state) => state !== State.TRANSIENT_FAILURE)
    this.#ready = among((state) => state === State.READY)
  }

  pick(call: experimental.PickArgs): experimental.PickResult {
    const [key] = call.metadata.get(KEY)
    const member =
      key === undefined ? (this.#ready.pick() ?? this.#usable.pick()) : this.#usable.owner(String(key))
    const picker = member && this.#leaves.get(member)?.getPicker()
    return (picker ?? new experimental.UnavailablePicker({ details: 'All members are draining' })).pick(call)
  }
}

function addressOf({ data }: Member): { host: string; port: number } {
  const { hostname, port } = new URL(data.url)
  return { host: hostname, port: Number(port) }
}
