//go:build race

package rules

func init() { shrunk = 8 }
