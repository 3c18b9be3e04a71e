import type { Command } from 'commander'
import type { CliIo } from './io.js'

/** `stratalog init [DIR]`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('init')
    .argument('[dir]', 'directory of the new log (else --dir, STRATALOG_DIR, ./data)')
    .description('write a stratalog.yaml with comments and print it')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog init ./mylog\n  stratalog init ./mylog && stratalog --dir ./mylog append trades --message hello',
    )
    .action(async (dir: string | undefined) => init(io, dir))
}

async function init(io: CliIo, dir: string | undefined): Promise<void> {
  const { mkdir, readFile, writeFile } = await import('node:fs/promises')
  const { join, resolve } = await import('node:path')
  const { StratalogError } = await import('../model/errors.js')
  const { packageRoot } = await import('./package.js')
  const named = dir ?? io.dir ?? (io.env.STRATALOG_DIR || './data')
  if (named === '')
    throw new StratalogError('usage', 'the directory is empty: name one, as stratalog init ./mylog')
  const directory = resolve(named)
  const file = join(directory, 'stratalog.yaml')
  const text = await readFile(join(packageRoot(), 'config', 'stratalog.yaml'), 'utf8')
  try {
    await mkdir(directory, { recursive: true })
    // `wx` looks and writes in one step: a file that is there is never touched.
    await writeFile(file, text, { flag: 'wx' })
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' || code === 'ENOTDIR') {
      const why = `${code === 'EEXIST' ? file : directory} is there already and was left as it is: edit it, or name another directory: stratalog init ./another`
      throw new StratalogError('refused', why, { cause: error })
    }
    const ours =
      code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
        ? 'access_denied'
        : code === 'ENOSPC'
          ? 'disk_full'
          : 'io_failed'
    throw new StratalogError(ours, `${file} can't be written: ${message}`, { cause: error })
  }
  if (io.json) return io.value({ file, created: true })
  await io.write(text)
  io.note(`wrote ${file}: edit it, then stratalog --dir ${named} append STREAM`)
}
