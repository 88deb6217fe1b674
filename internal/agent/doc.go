// Package agent is the node: it converges one server to what the control plane assigned to it.
//
// It keeps a worker a machine, which brings the machine to its desired state in steps that can each be
// repeated, and reports facts. It promises that killing it at any instruction stops no
// machine: a new agent adopts what runs, finishes or undoes what was half made, and removes
// what nobody wants, after the control plane has said what it wants.
// It never decides where a machine runs or what state an instance is in, and it keeps no
// state of its own but the machines' directories.
package agent
