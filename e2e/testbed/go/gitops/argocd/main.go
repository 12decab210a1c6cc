// argocd tells what Argo CD makes of objects, by Argo CD's own packages.
//
//	argocd health SCRIPT     < objects   health of each object (a JSON array), the script being GemmaSpecDeploy's check
//	argocd diff              < object    whether a server-side diff against the cluster of $KUBECONFIG finds a difference
//	argocd sync SCRIPT NS    < objects   one sync with prune of these objects, and of what earlier syncs made
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/utils/tracing"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	kind = "gemmaspec.io/GemmaSpecDeploy"
	// As Argo CD's controller calls itself where it applies.
	manager = "argocd-controller"
	mark    = "e2e/synced"
	longest = 5 * time.Minute
	pause   = time.Second
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	var answer any
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) == 2 && arguments[0] == "health":
		answer, err = healths(arguments[1])
	case len(arguments) == 1 && arguments[0] == "diff":
		answer, err = difference(ctx)
	case len(arguments) == 3 && arguments[0] == "sync":
		answer, err = synced(ctx, arguments[1], arguments[2])
	default:
		err = fmt.Errorf("argocd health SCRIPT | diff | sync SCRIPT NAMESPACE")
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// checks are Argo CD's settings with our script as the health check of our kind.
func checks(script string) (lua.ResourceHealthOverrides, error) {
	text, err := os.ReadFile(script)
	return lua.ResourceHealthOverrides{kind: v1alpha1.ResourceOverride{HealthLua: string(text)}}, err
}

func objects() (found []*unstructured.Unstructured, err error) {
	return found, json.NewDecoder(os.Stdin).Decode(&found)
}

func healths(script string) ([]*health.HealthStatus, error) {
	overrides, err := checks(script)
	if err != nil {
		return nil, err
	}
	given, err := objects()
	found := make([]*health.HealthStatus, 0, len(given))
	for _, one := range given {
		status, err := health.GetResourceHealth(one, overrides)
		if err != nil {
			return nil, err
		}
		found = append(found, status)
	}
	return found, err
}

func cluster() (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
}

// commands panics without a tracer; its logger may be left out.
func commands() *kube.KubectlCmd {
	return &kube.KubectlCmd{Tracer: tracing.NopTracer{}}
}

type verdict struct {
	Modified  bool            `json:"modified"`
	Live      json.RawMessage `json:"live"`
	Predicted json.RawMessage `json:"predicted"`
}

// difference is what an Application with ServerSideDiff=true would show of the object.
func difference(ctx context.Context) (*verdict, error) {
	var wanted unstructured.Unstructured
	if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
		return nil, err
	}
	config, err := cluster()
	if err != nil {
		return nil, err
	}
	kubectl := commands()
	live, err := kubectl.GetResource(ctx, config, wanted.GroupVersionKind(), wanted.GetName(), wanted.GetNamespace())
	if err != nil {
		return nil, err
	}
	_, parser, err := kubectl.LoadOpenAPISchema(config)
	if err != nil {
		return nil, err
	}
	applier, cleanup, err := kubectl.ManageServerSideDiffDryRuns(config)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	result, err := diff.Diff(ctx, &wanted, live,
		diff.WithServerSideDiff(true),
		diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(applier)),
		diff.WithManager(manager),
		diff.WithGVKParser(parser),
	)
	if err != nil {
		return nil, err
	}
	return &verdict{result.Modified, result.NormalizedLive, result.PredictedLive}, nil
}

type step struct {
	Object  string `json:"object"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// synced applies the objects wave by wave, each waiting until the earlier is healthy, and prunes what is marked as ours
// and no longer among them.
func synced(ctx context.Context, script, namespace string) ([]step, error) {
	overrides, err := checks(script)
	if err != nil {
		return nil, err
	}
	config, err := cluster()
	if err != nil {
		return nil, err
	}
	wanted, err := objects()
	if err != nil {
		return nil, err
	}
	for _, one := range wanted {
		annotations := one.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[mark] = namespace
		one.SetAnnotations(annotations)
	}
	known := watched(config, namespace)
	if err := known.EnsureSynced(); err != nil {
		return nil, err
	}
	defer known.Invalidate()
	var state operation
	for started := metav1.Now(); !state.phase.Completed(); {
		if err := state.proceed(ctx, config, known, wanted, namespace,
			sync.WithInitialState(state.phase, state.message, state.results, started),
			sync.WithPrune(true),
			sync.WithHealthOverride(overrides),
			sync.WithServerSideApply(true),
			sync.WithServerSideApplyManager(manager),
		); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %s: %w", state.phase, state.message, ctx.Err())
		case <-time.After(pause):
		}
	}
	if state.phase != common.OperationSucceeded {
		return nil, fmt.Errorf("%s: %s", state.phase, state.message)
	}
	return state.steps(), nil
}

// watched is what Argo CD keeps of a namespace; an object's info is true where an earlier sync made it.
func watched(config *rest.Config, namespace string) cache.ClusterCache {
	return cache.NewClusterCache(config,
		cache.SetNamespaces([]string{namespace}),
		cache.SetPopulateResourceInfoHandler(func(one *unstructured.Unstructured, _ bool) (any, bool) {
			ours := one.GetAnnotations()[mark] == namespace
			return ours, ours
		}),
	)
}

// operation is how far a sync has come.
type operation struct {
	phase   common.OperationPhase
	message string
	results []common.ResourceSyncResult
}

// proceed goes one pass on, in a context of its own with the objects as they now are, as Argo CD's controller does: a
// context keeps the objects that it began with, so that one of gitops-engine's own Sync never sees a new object healthy.
func (o *operation) proceed(
	ctx context.Context,
	config *rest.Config,
	known cache.ClusterCache,
	wanted []*unstructured.Unstructured,
	namespace string,
	options ...sync.SyncOpt,
) error {
	ours := func(one *cache.Resource) bool { return one.Info == true && len(one.OwnerRefs) == 0 }
	live, err := known.GetManagedLiveObjs(wanted, ours)
	if err != nil {
		return err
	}
	found := sync.Reconcile(wanted, live, namespace, known)
	pass, cleanup, err := sync.NewSyncContext("revision", found, config, config, commands(), namespace, options...)
	if err != nil {
		return err
	}
	defer cleanup()
	pass.Sync(ctx)
	o.phase, o.message, o.results = pass.GetState()
	return nil
}

func (o *operation) steps() []step {
	steps := make([]step, 0, len(o.results))
	for _, one := range o.results {
		steps = append(steps, step{one.ResourceKey.String(), string(one.Status), one.Message})
	}
	return steps
}
