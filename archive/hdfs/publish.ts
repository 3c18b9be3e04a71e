import { HdfsFailure } from './errors.js'
import type { Namespace } from './namespace.js'

/** Directories known to be there; there is one per incarnation. */
const DIRECTORIES_MAX = 10_000
const TRIES_MAX = 3

/** A file that is to get its name. */
export interface Temporary {
  readonly path: string
  readonly fileId: number
}

/**
 * Gives uploaded files their names. HDFS renames atomically and never onto a file, so that of many who rename to one
 * name one wins (invariant 6). What a rename did is never taken from its answer alone, which can be lost, or be that of
 * a second request after a first one that succeeded: the number of the file under the final name tells.
 */
export class Publisher {
  readonly #namespace: Namespace
  readonly #root: string
  readonly #made = new Set<string>()

  constructor(namespace: Namespace, root: string) {
    this.#namespace = namespace
    this.#root = root
  }

  /** False: the name is taken, and the file is still where it was. */
  async publish(file: Temporary, path: string, signal?: AbortSignal): Promise<boolean> {
    for (let tries = 1; tries <= TRIES_MAX; tries += 1) {
      await this.#makeParent(path, signal)
      let failure: unknown = null
      try {
        await this.#namespace.rename(file.path, path, signal)
      } catch (error) {
        failure = error
      }
      const outcome = await this.#look(file, path, signal, failure)
      if (outcome !== 'nothing') return outcome === 'ours'
      if (failure !== null) throw failure
      // The parent was there when it was made: somebody removed it. Look again, and make it again.
      this.#made.clear()
    }
    throw new HdfsFailure('an object could not be named, and HDFS does not say why')
  }

  /** Whose the name is now. A failed rename may have been done all the same, or may be done in a moment. */
  async #look(
    file: Temporary,
    path: string,
    signal: AbortSignal | undefined,
    failure: unknown,
  ): Promise<'ours' | 'taken' | 'nothing'> {
    // The caller's patience may have ended with the rename: what became of it has to be known all the same.
    const found = await this.#namespace.status(path, failure === null ? signal : undefined)
    if (found === null) return 'nothing'
    if (found.type === 'DIRECTORY') {
      // Where the name is a directory's, HDFS puts the file inside it: there it is no object, and nobody's.
      const stray = `${path}/${file.path.slice(file.path.lastIndexOf('/') + 1)}`
      if ((await this.#namespace.status(stray, signal))?.fileId === file.fileId) {
        await this.#namespace.delete(stray, signal)
      }
      return 'taken'
    }
    return found.fileId === file.fileId ? 'ours' : 'taken'
  }

  async #makeParent(path: string, signal: AbortSignal | undefined): Promise<void> {
    const parent = path.slice(0, path.lastIndexOf('/'))
    if (parent === this.#root || this.#made.has(parent)) return
    await this.#namespace.makeDirectories(parent, signal)
    if (this.#made.size >= DIRECTORIES_MAX) this.#made.clear()
    this.#made.add(parent)
  }
}
