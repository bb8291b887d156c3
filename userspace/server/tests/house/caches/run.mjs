// Runs the suite against the cache whose base URL is given, and prints what became of each test as JSON.
import fetch from 'node-fetch'
import { runTests, getResults } from './package/client/runner.mjs'
import suites from './package/tests/index.mjs'
import surrogate from './package/tests/surrogate-control.mjs'

const all = suites.includes(surrogate) ? suites : suites.concat([surrogate])
// All at once: most of them only wait for something to become stale.
await runTests(all, fetch, false, process.argv[2], 1000)
const results = getResults()
const passes = id => results[id] === true
const told = all.flatMap(suite => suite.tests).filter(test => test.id in results).map(test => {
  const result = results[test.id]
  const waits = (test.depends_on || []).filter(id => !passes(id))
  let word = 'pass'
  if (result !== true) word = waits.length > 0 ? 'setup' : result[0] === 'Setup' ? 'setup' : 'fail'
  return { id: test.id, kind: test.kind || 'required', result: word, why: result === true ? '' : `${result[1]} ${waits}` }
})
console.log(JSON.stringify(told))
