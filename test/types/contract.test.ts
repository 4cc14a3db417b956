import { join } from 'node:path'
import ts from 'typescript'
import { expect, test } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')
const CONTRACT = 'test/types/contract.d.ts'
const MAIN = 'dist/index.d.ts'
const MEMORY = 'dist/memory/index.d.ts'
const LAYERS_CONTRACT = 'test/types/contract-layers.d.ts'
const LAYERS = ['typed', 'ring', 'routing'].map((name) => `dist/layers/${name}.d.ts`)

const program = ts.createProgram(
  [CONTRACT, MAIN, MEMORY, LAYERS_CONTRACT, ...LAYERS].map((file) => join(ROOT, file)),
  { module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022, noLib: true },
)

/** Of values and of types. */
function exportsOf(file: string): string[] {
  const checker = program.getTypeChecker()
  const source = program.getSourceFile(join(ROOT, file))
  const symbol = source && checker.getSymbolAtLocation(source)
  if (!symbol) throw new Error(`not a module: ${file}; is it built?`)
  return checker.getExportsOfModule(symbol).map(({ name }) => name)
}

/** Of diagnostics channels: beside the contract. */
const DIAGNOSTICS = [
  'snapshot',
  'delta',
  'refresh',
  'heartbeat',
  'sweep',
  'lease',
  'eviction',
  'status',
  'error',
]
  .map((name) => `${name[0]?.toUpperCase() ?? ''}${name.slice(1)}Message`)
  .concat('Activity', 'DiagnosticsMessages')

test('the package exports the names of the contract and those of diagnostics, and no others', () => {
  const inMemory = exportsOf(MEMORY)
  expect(inMemory.sort()).toEqual(['MemoryCluster', 'MemoryWorld'])
  const expected = [...exportsOf(CONTRACT).filter((name) => !inMemory.includes(name)), ...DIAGNOSTICS]
  expect(exportsOf(MAIN).sort()).toEqual(expected.sort())
})

test('the layers export the names of their contract, and the standard that typed data follows', () => {
  const expected = [...exportsOf(LAYERS_CONTRACT), 'StandardSchemaV1']
  expect(LAYERS.flatMap(exportsOf).sort()).toEqual(expected.sort())
})
