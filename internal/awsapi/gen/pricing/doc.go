// Package pricing is the Price List API as its model has it: shapes, actions and a client. All but this file is generated;
// actions.txt lists the actions whose shapes are.
package pricing
