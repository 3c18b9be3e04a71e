/** What we use of webhdfs@1.2.0, which has no types of its own. Each method returns the `request` it makes. */
declare module 'webhdfs' {
  import type { EventEmitter } from 'node:events'
  import type { Agent, IncomingMessage } from 'node:http'

  export interface Request extends EventEmitter {
    /** Ends it; no further event but `abort`. */
    abort(): void
    on(event: 'response', listener: (response: IncomingMessage) => void): this
    on(event: 'data', listener: (chunk: Uint8Array | string) => void): this
    on(event: 'complete', listener: (response: IncomingMessage, body: unknown) => void): this
    on(event: 'error', listener: (error: Error) => void): this
  }

  export interface Options {
    readonly protocol: 'http' | 'https'
    readonly host: string
    readonly port: number
    readonly path: string
  }

  /** Given to each request; see the options of the package `request`. */
  export interface RequestOptions {
    readonly agent: Agent
    readonly timeout: number
    readonly qs: Readonly<Record<string, string>>
    readonly headers: Readonly<Record<string, string>>
    readonly followRedirect: false
    readonly proxy: null
    readonly jsonReviver: (key: string, value: unknown) => unknown
  }

  export interface Client {
    mkdir(path: string, mode: string, callback: () => void): Request
    rename(path: string, destination: string, callback: () => void): Request
    unlink(path: string, recursive: boolean, callback: () => void): Request
  }

  const webhdfs: { createClient(options: Options, request: RequestOptions): Client }
  // biome-ignore lint/style/noDefaultExport: this is how a CommonJS module is seen from here
  export default webhdfs
}
