/** What the command line asks of a log about its keys; a part of the control API. No key is ever in it. */

export interface StreamEncryptionDto {
  readonly stream: string
  readonly policy: { readonly ring: string; readonly key: string } | null
  readonly keys: readonly {
    readonly id: string
    readonly wrappedBy: readonly { readonly ring: string; readonly key: string; readonly atMs: number }[]
  }[]
}

export interface RotatedDto {
  readonly stream: string
  /** Keys that were wrapped again; 0: all were. */
  readonly wrapped: number
}

export interface ReencryptedDto {
  readonly segment: string
  /** False: its object had the newest key already. */
  readonly written: boolean
  readonly sizeBytes: number
}

/** The verbs on keys. */
export interface KeysApi {
  /** Of the streams whose policy encrypts them, or of one. */
  keyList(request: { readonly stream?: string }, signal?: AbortSignal): AsyncIterable<StreamEncryptionDto>
  keyRotate(request: { readonly stream?: string }, signal?: AbortSignal): AsyncIterable<RotatedDto>
  /** `refused` where the policy does not encrypt the stream. */
  keyReencrypt(
    request: { readonly stream: string; readonly newKey: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<ReencryptedDto>
}
