// Package gen is the parent of the generated packages, one a service, and says how to make them. It holds only their list.
package gen

import (
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ce"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ebs"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2instanceconnect"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ecr"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/pricing"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/sts"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
)

//go:generate go run ../modelgen -service ce -version 2017-10-25 -out ce
//go:generate go run ../modelgen -service ebs -version 2019-11-02 -out ebs
//go:generate go run ../modelgen -service ec2 -version 2016-11-15 -out ec2
//go:generate go run ../modelgen -service ec2-instance-connect -version 2018-04-02 -out ec2instanceconnect
//go:generate go run ../modelgen -service ecr -version 2015-09-21 -out ecr
//go:generate go run ../modelgen -service pricing -version 2017-10-15 -out pricing
//go:generate go run ../modelgen -service sts -version 2011-06-15 -out sts

// Services lists all that the endpoint knows, AWS's and nacre's own. An action without a handler is refused as not built.
func Services() []*awsapi.Service {
	return []*awsapi.Service{ec2.Service, ec2instanceconnect.Service, ebs.Service, ecr.Service, ce.Service, pricing.Service, sts.Service, nacre.Service}
}
