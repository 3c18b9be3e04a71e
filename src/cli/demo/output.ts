import type { CliIo } from '../io.js'
import type { Progress } from '../render.js'

/** Where the demo tells what it does: one line a fact, or one JSON object a step. */
export interface DemoOutput {
  readonly json: boolean
  /** A step is done: what it measured, as a line for people and as values for programs. */
  step(name: string, line: string, facts: object): Promise<void>
  /** How far a step is; gone when the step is done. */
  progress(name: string, total: number, done: number, detail: string): void
  /** Lines that are no step: the closing table and the commands to try. People only. */
  lines(lines: readonly string[]): Promise<void>
}

/** The demo's output on a command's streams. */
export function demoOutput(io: Pick<CliIo, 'json' | 'line' | 'value' | 'progress' | 'colors'>): DemoOutput {
  let bar: { readonly name: string; readonly progress: Progress } | null = null
  const end = () => {
    bar?.progress.end()
    bar = null
  }
  return {
    json: io.json,
    async step(name, line, facts) {
      end()
      if (io.json) await io.value({ step: name, ...facts })
      else await io.line(` ${io.colors.green('✔')} ${name.padEnd(8)} ${line}`)
    },
    progress(name, total, done, detail) {
      if (bar?.name !== name) {
        end()
        bar = { name, progress: io.progress({ label: `   ${name.padEnd(8)}`, total }) }
      }
      bar.progress.update(done, detail)
    },
    async lines(lines) {
      end()
      if (io.json) return
      for (const line of lines) await io.line(line)
    },
  }
}
