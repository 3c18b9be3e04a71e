import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'

/** What a Java program of the tests runs with. */
export interface JvmOptions {
  /** Directories of classes, and `DIRECTORY/*` for jars. */
  readonly classPath: readonly string[]
  /** What `writeLogging` wrote. */
  readonly logging: string
  /** System properties. */
  readonly properties?: Readonly<Record<string, string | number | boolean>>
  readonly heapMb: number
  /** What netty may keep outside of the heap. */
  readonly directMb: number
  /** Compiles hot code thoroughly: starts slower and runs faster, for benchmarks. @default false */
  readonly optimize?: boolean
  /** Its log level. @default 'WARN' */
  readonly level?: string
}

/** The command of a JVM that starts soon and stays small; the main class and its arguments come after it. */
export function jvm(options: JvmOptions): string[] {
  const home = process.env.JAVA_HOME
  const { heapMb, directMb, optimize = false, level = 'WARN' } = options
  const properties = Object.entries(options.properties ?? {}).map(([name, value]) => `-D${name}=${value}`)
  return [
    home === undefined ? 'java' : join(home, 'bin', 'java'),
    ...['-Xms32m', `-Xmx${heapMb}m`, '-Xss512k', `-XX:MaxDirectMemorySize=${directMb}m`],
    ...['-XX:+UseSerialGC', '-Xshare:auto', `-XX:TieredStopAtLevel=${optimize ? 4 : 1}`],
    ...['-Djava.net.preferIPv4Stack=true', '-Dio.netty.leakDetectionLevel=disabled', `-Dlevel=${level}`],
    ...[`-Dlog4j2.configurationFile=${options.logging}`, ...properties, '-cp', options.classPath.join(':')],
  ]
}

/** Writes a file that makes Java log to standard error, which a household keeps in a file; its path. */
export function writeLogging(directory: string): string {
  const path = join(directory, 'log4j2.xml')
  writeFileSync(
    path,
    `<Configuration status="ERROR">
  <Appenders><Console name="C" target="SYSTEM_ERR">
    <PatternLayout pattern="%d{ISO8601} %-5p [%t] %c{1} - %m%n"/>
  </Console></Appenders>
  <Loggers><Root level="\${sys:level:-WARN}"><AppenderRef ref="C"/></Root></Loggers>
</Configuration>
`,
  )
  return path
}
