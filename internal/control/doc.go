// Package control makes what was asked for come true: it places instances, tells nodes what to
// run, turns their facts into instance states, and clears away what is over.
//
// Its parts are level-triggered: each looks at the store's present state and does the next step, so
// that a crash between any two steps is resumed by looking again. A change in the store is
// the fast path; a periodic resync is the safety net. It promises that an instance's address
// and name are given back only after its node said that nothing of the machine is left.
// It never runs a machine and never answers the API.
package control
