import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import ts from 'typescript'

/** Every source whose docstrings users read in their editors. */
const SOURCES = ['src', 'archive', 'tiering', 'test/contract'].flatMap((folder) =>
  readdirSync(folder, { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((name) => name.endsWith('.ts')),
)

/** The examples of a file's docstrings, by the line they begin in. */
function examplesOf(file: string): [name: string, code: string][] {
  const blocks = readFileSync(file, 'utf8').matchAll(/\* ```ts\n([\s\S]*?)\* ```/g)
  return [...blocks].map((block, i) => [
    join(process.cwd(), `${file.replace(/\W/g, '_')}_${i + 1}.ts`),
    // A module of its own, whether it imports something or not.
    `${`${block[1]}`.replace(/^ *\* ?/gm, '')}\nexport {}\n`,
  ])
}

describe('docstrings', () => {
  test('every example compiles against the package as its users see it', () => {
    const examples = new Map(SOURCES.flatMap(examplesOf))
    assert.ok(examples.size >= 10, `${examples.size} examples`)
    const { config } = ts.readConfigFile('tsconfig.json', ts.sys.readFile)
    const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, process.cwd())
    // Examples show a call, they do not use what it returns.
    const lenient = { noEmit: true, incremental: false, isolatedDeclarations: false, noUnusedLocals: false }
    const settings: ts.CompilerOptions = { ...options, ...lenient }
    // Else "stratalog" would mean the sources, not what is shipped.
    for (const key of ['tsBuildInfoFile', 'rootDir', 'outDir'] as const) delete settings[key]
    const host = ts.createCompilerHost(settings)
    const { fileExists, readFile } = host
    host.fileExists = (name) => examples.has(name) || fileExists.call(host, name)
    host.readFile = (name) => examples.get(name) ?? readFile.call(host, name)
    const program = ts.createProgram([...examples.keys()], settings, host)
    const problems = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
      const text = ts.flattenDiagnosticMessageText(messageText, '\n')
      return `${file?.fileName ?? ''}: ${text}`
    })
    assert.deepEqual(problems, [])
  })

  test('whatever the package exports says what it is', () => {
    const host = ts.createCompilerHost({})
    const roots = ['dist/src/index.d.ts', 'dist/archive/index.d.ts', 'dist/test/contract/index.d.ts']
    const program = ts.createProgram(
      roots,
      { module: ts.ModuleKind.NodeNext, skipLibCheck: true, noLib: true, types: [] },
      host,
    )
    const checker = program.getTypeChecker()
    const silent: string[] = []
    for (const root of roots) {
      const file = program.getSourceFile(root)
      assert.ok(file !== undefined, `${root} was built`)
      const module = checker.getSymbolAtLocation(file)
      assert.ok(module !== undefined, root)
      for (const exported of checker.getExportsOfModule(module)) {
        const aliased = (exported.flags & ts.SymbolFlags.Alias) !== 0
        const symbol = aliased ? checker.getAliasedSymbol(exported) : exported
        if (symbol.getDocumentationComment(checker).length === 0) silent.push(`${root} ${exported.name}`)
      }
    }
    assert.deepEqual(silent, [])
  })
})
