import { dirname, resolve } from 'node:path'
import process from 'node:process'
import type { HdfsSettings } from '../../archive/hdfs/settings.js'
import type { S3Settings } from '../../archive/s3/settings.js'
import { ENGINE_SETTINGS, type EngineName } from '../config/engine-settings.js'
import type { ResolvedConfig } from '../config/resolve.js'
import { configSource } from './configuration.js'

/** How archives of each engine are reached. */
export interface ArchiveSettings {
  readonly s3?: S3Settings
  readonly hdfs?: HdfsSettings
}

/** What a configuration says of engines, as they take it: files of the file start at `root`, others where we run. */
export function archiveSettings(root: string, config: ResolvedConfig): ArchiveSettings {
  return {
    s3: engineSettings(root, config, 's3') as S3Settings,
    hdfs: engineSettings(root, config, 'hdfs') as HdfsSettings,
  }
}

/** What is said of one engine, by the names of its settings; files are absolute. */
export function engineSettings(
  root: string,
  config: ResolvedConfig,
  engine: EngineName,
): Readonly<Record<string, unknown>> {
  const kinds = new Map(Object.values(ENGINE_SETTINGS[engine]).map(({ field, kind }) => [field, kind]))
  return Object.fromEntries(
    Object.entries(config.engines[engine]).map(([field, { value, layer }]) => [
      field,
      kinds.get(field) === 'file' ? resolve(layer === 'file' ? root : process.cwd(), String(value)) : value,
    ]),
  )
}

/** The same for an archive that is opened by itself: from that file, else from stratalog.yaml where we run. */
export async function settingsBeside(file?: string): Promise<ArchiveSettings> {
  const root = file === undefined ? process.cwd() : dirname(resolve(file))
  const source = configSource(root, file === undefined ? {} : { config: resolve(file) })
  return archiveSettings(root, source.resolve(await source.read()))
}
