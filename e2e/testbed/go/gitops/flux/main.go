// flux tells what Flux makes of objects, by Flux' own packages.
//
//	flux EXPRESSIONS < objects    per object of a JSON array: the verdict of the health check's expressions
//	                              (a file with healthCheckExprs' entry as JSON), and that of kstatus without them
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type verdict struct {
	Expressions status.Status `json:"expressions"`
	Kstatus     status.Status `json:"kstatus"`
}

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("flux EXPRESSIONS"))
	}
	found, err := verdicts(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func verdicts(file string) ([]verdict, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var check kustomize.CustomHealthCheck
	if err := json.Unmarshal(text, &check); err != nil {
		return nil, err
	}
	evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
	if err != nil {
		return nil, err
	}
	var given []*unstructured.Unstructured
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		return nil, err
	}
	found := make([]verdict, 0, len(given))
	for _, one := range given {
		// As Flux' status reader: what can't be evaluated is unknown, and waited for like all that is not current.
		judged := status.UnknownStatus
		if told, err := evaluator.Evaluate(context.Background(), one); err == nil {
			judged = told.Status
		}
		plain, err := status.Compute(one)
		if err != nil {
			return nil, err
		}
		found = append(found, verdict{judged, plain.Status})
	}
	return found, nil
}
