/** The package has no types of its own. */
declare module 'node-gyp-build' {
  /** Loads the addon of the package in `directory`. @throws Error when there is none for this machine */
  function load(directory: string): unknown
  export = load
}
