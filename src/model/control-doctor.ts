/** What `doctor` finds: ready for JSON. Types only. */

/** What a check is about. */
export type DoctorArea = 'node' | 'config' | 'stores' | 'index' | 'archive' | 'keys'

/** One thing that was looked at. */
export interface DoctorCheck {
  readonly area: DoctorArea
  /** Short and stable. */
  readonly name: string
  /** `ok`; `note`: nobody has to do anything now; `bad`: somebody has to. */
  readonly state: 'ok' | 'note' | 'bad'
  /** What was seen, for people. Never a secret. */
  readonly text: string
  /** What to do about it; null where nothing is to be done. */
  readonly mend: string | null
}

/** All that was looked at, in the order of `DoctorArea`. */
export interface DoctorReport {
  readonly atMs: number
  readonly bad: number
  readonly checks: readonly DoctorCheck[]
}

/** The verb of this area. */
export interface DoctorApi {
  /** Looks at everything once; what is wrong is in the report and rejects nothing. */
  doctor(signal?: AbortSignal): Promise<DoctorReport>
}
