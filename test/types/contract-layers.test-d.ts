/** The emitted types of the layers are the contract's. Names that only exist as types: contract.test.ts. */
import type { StandardSchemaV1 as TheirSchema } from '@standard-schema/spec'
import type * as RingLayer from 'pg-membership/ring'
import type * as RoutingLayer from 'pg-membership/routing'
import type * as TypedLayer from 'pg-membership/typed'
import type * as Contract from './contract-layers.js'

/** Conditional types are related by identity: the way to ask for it. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Without the brand of #private members. */
type Members<C> = { [K in keyof C]: C[K] }
type All<Checks extends readonly true[]> = Checks
type Both<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false

interface Data {
  readonly url: string
}
interface One {
  readonly id: string
  readonly n: number
}

export type Typed = All<
  [
    Same<keyof typeof TypedLayer, 'json' | 'typed'>,
    Same<TypedLayer.Codec<Data>, Contract.Codec<Data>>,
    Same<TypedLayer.TypedMember<Data>, Contract.TypedMember<Data>>,
    Same<TypedLayer.TypedSnapshot<Data>, Contract.TypedSnapshot<Data>>,
    Same<TypedLayer.TypedMembership<Data>, Contract.TypedMembership<Data>>,
    Same<TypedLayer.TypedCluster<Data>, Contract.TypedCluster<Data>>,
    Same<typeof TypedLayer.typed, typeof Contract.typed>,
    // A copy of the standard: whoever has theirs can give it, and the other way round.
    Both<TypedLayer.StandardSchemaV1<unknown, Data>, TheirSchema<unknown, Data>>,
    Both<typeof TypedLayer.json, typeof Contract.json>,
  ]
>

export type Ring = All<
  [
    Same<keyof typeof RingLayer, 'Ring'>,
    Same<RingLayer.RingOptions<One>, Contract.RingOptions<One>>,
    Same<Members<RingLayer.Ring<One>>, Members<Contract.Ring<One>>>,
    Both<ConstructorParameters<typeof RingLayer.Ring<One>>, ConstructorParameters<typeof Contract.Ring<One>>>,
  ]
>

export type Routing = All<
  [
    Same<keyof typeof RoutingLayer, 'Router'>,
    Same<RoutingLayer.RouterOptions<One>, Contract.RouterOptions<One>>,
    Same<Members<RoutingLayer.Router>, Members<Contract.Router>>,
    Same<Members<RoutingLayer.Router<One>>, Members<Contract.Router<One>>>,
    Both<
      ConstructorParameters<typeof RoutingLayer.Router<One>>,
      ConstructorParameters<typeof Contract.Router<One>>
    >,
  ]
>
